"""Entropy terms: by hand, against the published objectives written out, and what the history remembers."""

from __future__ import annotations

import json
import math

import pytest
import torch
from pydantic import ValidationError

from agentkit.training.config import TrainConfig
from agentkit.training.forward import _nucleus_entropy
from agentkit.training.losses import EPO, SIREN, Bonus, EntropyHistory, EntropyStep

# Two episodes; the first has a turn of two tokens and one of one, the second a turn of two tokens.
SEQUENCE, TURN = torch.tensor([0, 0, 0, 1, 1]), torch.tensor([0, 0, 1, 0, 0])
ENTROPY = torch.tensor([1.0, 3.0, 0.5, 2.0, 0.2])


def term(scheme, entropy=ENTROPY, history=None, progress=0.0, pieces=(slice(0, 5),)):
    """(what −entropy_coef multiplies, its gradient by each entropy), summed over micro-batches."""
    leaf = entropy.clone().requires_grad_()
    told = entropy if scheme.needs_batch else None
    gain = scheme.fitted(EntropyStep(TURN, SEQUENCE, told, history or EntropyHistory(), progress))
    total = sum(gain.of(leaf[part], torch.arange(5)[part]) for part in pieces) / gain.divisor
    total.backward()
    assert leaf.grad is not None
    return total.item(), leaf.grad


def history_of(*steps):
    history = EntropyHistory()
    for entropy in steps:
        history.add(TURN, torch.tensor(entropy))
    return history


def test_the_bonus_is_the_token_mean():
    value, gradient = term(Bonus())
    assert value == pytest.approx(6.7 / 5)
    assert gradient.tolist() == pytest.approx([0.2] * 5)


def test_the_history_is_a_mean_per_turn_over_steps_and_survives_json():
    history = history_of([1, 1, 4, 1, 1], [2, 2, 6, 3, 3])  # turn 0: 1 and 2.5; turn 1: 4 and 6
    assert history.mean(torch.tensor([1, 0, 7])).tolist() == pytest.approx([5, 1.75, math.nan], nan_ok=True)
    again = EntropyHistory.of(json.loads(json.dumps(history.state())))
    assert again == history
    again.add(torch.tensor([7]), torch.tensor([3.0]))
    assert again.mean(torch.tensor([7])).tolist() == [3]


def test_without_a_history_epo_is_the_mean_over_tokens_then_turns_then_episodes():
    value, gradient = term(EPO())
    assert value == pytest.approx(((1 + 3) / 2 + 0.5) / 2 / 2 + (2 + 0.2) / 2 / 2)
    assert gradient.tolist() == pytest.approx([1 / 8, 1 / 8, 1 / 4, 1 / 4, 1 / 4])


def test_epo_pulls_entropies_back_into_the_band_of_their_turn():
    # Bands: turn 0 [0.5, 1.5]·1 and turn 1 [0.5, 1.5]·2; strength α·β_k = 0.4·(1 + e^{−1}).
    history = history_of([1.0, 1.0, 2.0, 1.0, 1.0])
    strength = 0.4 * (1 + math.exp(-1))
    value, gradient = term(EPO(low=0.5, high=1.5, penalty=0.4, decay=2.0), history=history, progress=0.5)
    each = [1.0, 3.0 - strength * 1.5, 0.5 - strength * 0.5, 2.0 - strength * 0.5, 0.2 - strength * 0.3]
    weights = [1 / 8, 1 / 8, 1 / 4, 1 / 4, 1 / 4]
    assert value == pytest.approx(sum(w * x for w, x in zip(weights, each, strict=True)))
    slopes = [1, 1 - strength, 1 + strength, 1 - strength, 1 + strength]
    assert gradient.tolist() == pytest.approx([w * x for w, x in zip(weights, slopes, strict=True)])


def test_the_weight_of_the_corridor_falls_from_two_to_one():
    history = history_of([0.1] * 5)
    slope = [term(EPO(penalty=1.0), history=history, progress=p)[1][0].item() * 8 for p in (0.0, 1.0, 50.0)]
    assert slope == pytest.approx([1 - 2, 1 - (1 + math.exp(-1)), 1 - 1])


@pytest.mark.parametrize("scheme", [Bonus(), EPO(), SIREN(share=0.6)], ids=lambda scheme: scheme.name)
def test_the_split_into_micro_batches_changes_nothing(scheme):
    def both(pieces):
        history = history_of([1.0, 1.0, 2.0, 1.0, 1.0])
        history.anchor = 1.3
        return term(scheme, history=history, pieces=pieces)

    value, gradient = both((slice(0, 5),))
    again, slopes = both((slice(3, 5), slice(0, 1), slice(1, 3)))
    assert again == pytest.approx(value)
    assert slopes.tolist() == pytest.approx(gradient.tolist())


def test_siren_has_the_gradient_of_the_squared_distance_from_its_anchor_at_the_peaks():
    history = EntropyHistory()
    assert term(SIREN(share=0.4), history=history)[1].tolist() == [0] * 5, "the first step is the anchor"
    assert history.anchor == 2.5  # of the two highest, 3 and 2
    moved = torch.tensor([1.0, 2.0, 0.5, 1.6, 0.2])
    leaf = moved.clone().requires_grad_()
    (-((leaf[[1, 3]].mean() - 2.5) ** 2)).backward()
    assert leaf.grad is not None
    assert term(SIREN(share=0.4), entropy=moved, history=history)[1].tolist() == pytest.approx(leaf.grad.tolist())
    assert leaf.grad[1] > 0, "an entropy that has fallen is raised"
    assert history.anchor == 2.5


def test_the_entropy_of_a_nucleus_by_hand():
    # Half, a quarter and two eighths; mass 0.7 needs the first two, renormalised to 2/3 and 1/3.
    logp = torch.tensor([[0.125, 0.5, 0.125, 0.25], [0.97, 0.01, 0.01, 0.01]], dtype=torch.float64).log()
    logp.requires_grad_()
    found = _nucleus_entropy(logp, 0.7)
    assert found.tolist() == pytest.approx([-(2 / 3) * math.log(2 / 3) - math.log(1 / 3) / 3, 0.0])
    found.sum().backward()
    assert logp.grad is not None
    assert logp.grad.isfinite().all()
    assert logp.grad[0, [0, 2]].tolist() == [0, 0]
    logits = torch.randn(3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1), requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: _nucleus_entropy(x.log_softmax(-1), 0.7), (logits,))


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"entropy": {"name": "epo"}, "entropy_coef": 0}, "entropy = 'epo' and entropy_coef = 0"),
        ({"entropy": {"name": "epo", "low": 2.0}}, "low = 2 must be below high = 2"),
        ({"entropy": {"name": "siren", "top_p": 1.0}}, "top_p"),
        ({"kl": "k2"}, "kl = 'k2' and kl_coef = 0"),
        ({"entropy": {"name": "bonus", "top_p": 0.5}}, "top_p"),
    ],
)
def test_terms_that_would_have_no_effect_are_refused(settings, named):
    with pytest.raises(ValidationError, match=named):
        TrainConfig(**settings)
