"""Modifiers of advantages: by hand, and against formulas written out attempt by attempt."""

from __future__ import annotations

import dataclasses
import itertools
import math
import statistics

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from agentkit.errors import ConfigError
from agentkit.training.advantages import ACE, CANON, Amplify, DrGRPO, Novelty, Outcomes, Spread
from agentkit.training.batch import Batch, Estimate
from agentkit.training.config import TrainConfig
from agentkit.training.credit import Uniform
from agentkit.training.forward import measure
from agentkit.training.rows import build_rows
from agentkit.training.trainer import Trainer

FEW = settings(max_examples=30, deadline=None)
ATTEMPT = st.tuples(
    st.integers(0, 2),  # group
    st.integers(-5, 5).map(lambda number: number / 2),  # return
    st.integers(0, 4),  # tokens
    st.floats(-3, 0),  # log-probability of a token
    st.floats(-3, 0),  # under the reference
    st.floats(0, 2),  # entropy of a token
    st.booleans(),  # success
)
BATCHES = st.lists(ATTEMPT, min_size=1, max_size=14)
MODIFIERS = {
    "ace": ACE(alpha=0.5),
    "ace, mean": ACE(over="mean"),
    "canon": CANON(mu=0.8),
    "canon, entropy": CANON(metric="entropy", mu=0.3),
    "amplify": Amplify(),
    "amplify, factor": Amplify(factor=2.0, best="factor"),
    "amplify, one": Amplify(best="one"),
    "novelty": Novelty(strength=2.0, limit=0.5),
    "spread": Spread(share=0.5),
}


def outcomes_of(parts, batch):
    """Attempts of one turn."""
    compact = {group: number for number, group in enumerate(dict.fromkeys(attempt[0] for attempt in batch))}
    group, earned, tokens, logp, reference, entropy, success = map(np.array, zip(*batch, strict=True))
    return parts.make_outcomes(
        [[value] for value in earned],
        [compact[each] for each in group],
        tokens_U=tokens,
        logp_U=logp * tokens,
        reference_logp_U=reference * tokens,
        entropy_U=entropy * tokens,
        success_E=success,
    )


def written_out(modifier, batch, before):
    """The formula of each, attempt by attempt; `Spread` by trying all subsets, see below."""
    found = []
    for (group, earned, tokens, logp, reference, entropy, success), value in zip(batch, before, strict=True):
        mates = [(a, v) for a, v in zip(batch, before, strict=True) if a[0] == group]
        if isinstance(modifier, ACE):
            shift = (logp - reference) * (tokens if modifier.over == "sum" else tokens > 0)
            found.append(value * (1 + modifier.alpha * math.log(1 + math.exp(shift))) if value < 0 else value)
        elif isinstance(modifier, CANON):
            measure = lambda a: a[2] if modifier.metric == "length" else a[5] * (a[2] > 0)
            middle = statistics.median(measure(a) for a, _ in mates)
            mine = (tokens if modifier.metric == "length" else entropy * (tokens > 0)) > middle
            own = [v for a, v in mates if (measure(a) > middle) == mine]
            other = [v for a, v in mates if (measure(a) > middle) != mine]
            shift = modifier.mu * statistics.fmean(other) + (1 - modifier.mu) * statistics.fmean(own) if other else 0
            found.append(value - shift)
        elif isinstance(modifier, Amplify):
            best = earned >= (max(a[1] for a, _ in mates) if modifier.best == "factor" else 1)
            if modifier.best != "scaled" and best and (modifier.best == "one" or any(v != 0 for _, v in mates)):
                found.append(modifier.factor if modifier.best == "factor" else 1.0)
            else:
                found.append(value * modifier.factor if value > 0 else value)
        elif isinstance(modifier, Novelty):
            mean = statistics.fmean(logps) if (logps := [a[3] for a, _ in mates if a[2]]) else 0
            bonus = min(max(modifier.strength * (1 - math.exp(logp - mean)), 0), modifier.limit * value)
            found.append(value + bonus if success and tokens and value > 0 else value)
    return found


def test_ace_punishes_what_became_more_likely_by_hand(parts):
    # log ratios of whole attempts: −1 − (−1 − ln 3) = ln 3, so softplus = ln 4; and −ln 3: ln(4/3)
    outcomes = parts.make_outcomes(
        [[0, 0], [0, 0], [1, 1]],
        logp_U=[-0.5, -0.5, -1, 0, 0, 0],
        reference_logp_U=[-0.5, -0.5 - math.log(3), -1, math.log(3), 0, 9],
    )
    found = ACE(alpha=2.0).turns(np.array([-1.0, -1.0, -1.0, -1.0, 2.0, 2.0]), outcomes)
    more, less = -1 - 2 * math.log(4), -1 - 2 * math.log(4 / 3)
    assert found == pytest.approx([more, more, less, less, 2, 2])
    # per token: ln 3 / 2
    mean = ACE(over="mean").turns(np.array([-1.0] * 6), outcomes)
    assert mean[0] == pytest.approx(-1 - math.log(1 + 3**0.5))


def test_canon_by_hand(parts):
    # Long attempts earned 1 and 1, short ones 1 and 0: advantages of Dr.GRPO ¼, ¼, ¼, −¾, means ¼ and −¼.
    outcomes = parts.make_outcomes([[1], [1], [1], [0]], tokens_U=[9, 8, 2, 1])
    before = DrGRPO().turns(outcomes)
    inter = CANON(mu=1.0).turns(before, outcomes)
    assert inter == pytest.approx([0.5, 0.5, 0, -1])  # R − mean of the other half: 1 − ½, 1 − 1, 0 − 1
    intra = CANON(mu=0.0).turns(before, outcomes)
    assert intra == pytest.approx([0, 0, 0.5, -0.5])
    assert (inter + intra) / 2 == pytest.approx(before)
    assert CANON(mu=0.5).turns(before, outcomes) == pytest.approx(before)


def test_canon_changes_nothing_where_all_attempts_measure_the_same(parts):
    outcomes = parts.make_outcomes([[1], [1], [0]])
    before = DrGRPO().turns(outcomes)
    assert CANON(mu=1.0).turns(before, outcomes).tolist() == before.tolist()


def test_amplification_by_hand(parts):
    outcomes = parts.make_outcomes([[2], [0.5], [0.5], [0]], [0, 0, 0, 0])
    before = DrGRPO().turns(outcomes)  # mean 0.75
    assert Amplify().turns(before, outcomes).tolist() == [3.75, -0.25, -0.25, -0.75]
    assert Amplify(best="factor").turns(before, outcomes).tolist() == [3, -0.25, -0.25, -0.75]
    assert Amplify(best="one").turns(before, outcomes).tolist() == [1, -0.25, -0.25, -0.75]
    won = parts.make_outcomes([[1], [1], [0], [0]], [0, 0, 1, 1])  # a group of successes teaches, one of failures not
    assert Amplify(best="one").turns(np.zeros(4), won).tolist() == [1, 1, 0, 0]
    assert Amplify(best="factor").turns(np.zeros(4), won).tolist() == [0, 0, 0, 0]


def test_novelty_by_hand(parts):
    # Mean log-probabilities −1 − ln 2, −1, −1 + ln 2: mean −1, η = ½, 1, 2.
    outcomes = parts.make_outcomes(
        [[1]] * 4, tokens_U=[2, 1, 1, 0], logp_U=[-2 - 2 * math.log(2), -1, -1 + math.log(2), 0]
    )
    found = Novelty(strength=0.5, limit=1.0).turns(np.array([0.5, 0.5, 0.5, 0.5]), outcomes)
    assert found == pytest.approx([0.75, 0.5, 0.5, 0.5])
    assert Novelty(strength=9, limit=0.25).turns(np.full(4, 0.5), outcomes)[0] == 0.625
    failed = dataclasses.replace(outcomes, success_E=np.zeros(4, bool))
    assert Novelty().turns(np.full(4, 0.5), failed).tolist() == [0.5] * 4


def test_the_attempts_that_vary_most_stay_by_hand(parts):
    outcomes = parts.make_outcomes([[9], [0], [1], [8], [4], [4]], [0, 0, 0, 0, 1, 1])
    before = np.array([9.0, 0.0, 1.0, 8.0, -2.0, 2.0])
    # 9 and 0 vary more than 9 and 8 or 0 and 1; a group of two is never made smaller
    assert Spread(share=0.5).turns(before, outcomes).tolist() == [9, 0, 0, 0, -2, 2]
    # of three: 0, 1, 9 (variance 146/9) against 0, 8, 9 (146/9 as well): the first found stays
    assert np.count_nonzero(Spread(share=0.75).turns(before, outcomes)[:4] == before[:4]) == 3


@FEW
@given(st.lists(st.integers(-9, 9), min_size=2, max_size=8), st.floats(0.1, 0.9))
def test_no_subset_varies_more_than_the_one_that_stays(parts, values, share):
    outcomes = parts.make_outcomes([[value] for value in values])
    before = np.array(values) + 100.0  # none is zero
    kept = Spread(share=share).turns(before, outcomes)
    kept = kept[kept != 0]
    size = min(len(values), max(2, math.ceil(share * len(values) - 1e-9)))
    assert len(kept) == size
    best = max(statistics.pvariance(subset) for subset in itertools.combinations(values, size))
    assert np.var(kept) == pytest.approx(best)


@pytest.mark.parametrize("name", [name for name in MODIFIERS if name != "spread"])
@FEW
@given(BATCHES)
def test_every_modifier_is_its_formula_written_out(parts, name, batch):
    outcomes = outcomes_of(parts, batch)
    before = DrGRPO().turns(outcomes)
    assert MODIFIERS[name].turns(before, outcomes) == pytest.approx(
        written_out(MODIFIERS[name], batch, before.tolist()), abs=1e-9
    )


@pytest.mark.parametrize("name", [name for name in MODIFIERS if name != "amplify, one"])
@FEW
@given(BATCHES)
def test_groups_whose_advantages_are_zero_keep_zeros(parts, name, batch):
    outcomes = outcomes_of(parts, batch)
    assert not MODIFIERS[name].turns(np.zeros(len(batch)), outcomes).any()


@pytest.mark.parametrize("name", MODIFIERS)
@FEW
@given(BATCHES)
def test_a_group_knows_nothing_of_the_others(parts, name, batch):
    outcomes = outcomes_of(parts, batch)
    before = DrGRPO().turns(outcomes)
    found = MODIFIERS[name].turns(before, outcomes)
    for group in {attempt[0] for attempt in batch}:
        inside = [place for place, attempt in enumerate(batch) if attempt[0] == group]
        alone = outcomes_of(parts, [batch[place] for place in inside])
        assert MODIFIERS[name].turns(before[inside], alone) == pytest.approx(found[inside], abs=1e-9)


def test_what_nobody_measured_is_named():
    with pytest.raises(ConfigError, match="'ace' needs the reference's log-probabilities"):
        ACE().turns(np.zeros(1), _bare())
    with pytest.raises(ConfigError, match="metric = 'entropy' needs entropies"):
        CANON(metric="entropy").turns(np.zeros(1), _bare())
    assert ACE().needs_reference
    assert CANON(metric="entropy").needs_entropy
    assert not CANON().needs_entropy
    assert not any(one.needs_reference for one in (CANON(), Amplify(), Novelty(), Spread()))


def _bare():
    one = np.ones(1)
    return Outcomes(
        np.zeros(1, int), one, one > 0, one < 0, np.array([0, 1]), one, np.array([-1]), np.ones(1, int), one
    )


def test_outcomes_are_told_sums_over_turns(parts):
    told = parts.make_outcomes([[1, 0], [1]]).told(
        np.array([0, 0, 2]), reference_logp_N=np.array([-1.0, -2.0, -4.0]), entropy_N=np.array([0.5, 0.25, 1.0])
    )
    assert told.reference_logp_U.tolist() == [-3, 0, -4]
    assert told.entropy_U.tolist() == [0.75, 0, 1]


def test_modifiers_are_chosen_in_order_by_name():
    config = TrainConfig.model_validate({"modifiers": [{"name": "canon", "mu": 0.7}, {"name": "ace"}]})
    assert config.modifiers == (CANON(mu=0.7), ACE())
    assert TrainConfig.model_validate_json(config.model_dump_json()).modifiers == config.modifiers
    for wrong in ({"name": "novel"}, {"name": "amplify", "factor": 1.0}, {"name": "spread", "mu": 0.5}):
        with pytest.raises(ValidationError):
            TrainConfig.model_validate({"modifiers": [wrong]})


def test_the_trainer_applies_modifiers_in_order_to_what_it_measured(parts, tmp_path):
    """A run whose advantages are CANON by entropy, then ACE, against both applied by hand."""
    chosen = (CANON(metric="entropy", mu=1.0), ACE())
    config = TrainConfig(advantage=DrGRPO(), modifiers=chosen, bottleneck_every=0, credit=Uniform())
    trainer = Trainer(
        parts.make_taught_policy(), parts.LAKE, tmp_path, config, reference=parts.make_policy(seed=9).model
    )
    turns = [[parts.make_turn([5, 6], range(8, 8 + length))] for length in (3, 5, 4, 6)]
    rows = build_rows([parts.make_episode(each) for each in turns])[0]
    outcomes = parts.make_outcomes([[1], [0], [1], [0.5]], tokens_U=[3, 5, 4, 6], logp_U=[-1, -2, -3, -4])
    empty = np.zeros(0, np.bool_)
    found = Estimate.of(Batch([], outcomes, rows, np.zeros(4), {}, empty), trainer.models, config)
    reference = found.reference
    assert reference is not None
    turn_N = np.repeat(np.arange(4), [3, 5, 4, 6])
    entropy_N = measure(trainer.policy.model, rows, 1000).entropy_N.double().numpy()
    told = outcomes.told(turn_N, reference_logp_N=reference.logp_N.double().numpy(), entropy_N=entropy_N)
    expected = DrGRPO().turns(told)
    for modifier in chosen:
        expected = modifier.turns(expected, told)
    assert found.advantage_N.numpy() == pytest.approx(expected[turn_N], abs=1e-5)
    assert found.advantage_N.numpy() != pytest.approx(DrGRPO().turns(outcomes)[turn_N], abs=1e-3)
    trainer.close()
