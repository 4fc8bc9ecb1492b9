"""Overlong responses: what they lose of their reward, what the loss leaves out, and settings that would do nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from agentkit.errors import ConfigError
from agentkit.policies.policy import Sampling
from agentkit.training.advantages import Outcomes
from agentkit.training.config import ImitationConfig, TrainConfig
from agentkit.training.credit import Uniform
from agentkit.training.masks import masked
from agentkit.training.overlong import OverlongPenalty, uncut_turns
from agentkit.training.rows import build_rows
from agentkit.training.stream import flatten

QUIET = {"imitation": ImitationConfig(weight=0), "bottleneck_every": 0, "credit": Uniform(), "entropy_coef": 0.0}


def test_the_penalty_is_that_of_the_paper_at_its_own_numbers():
    """L_max = 20480, L_cache = 4096: nothing up to 16384, half at 18432, all from 20480 on."""
    penalty = OverlongPenalty(max_length=20_480, cache_length=4_096)
    assert penalty.of(np.array([0, 16_384, 17_408, 18_432, 20_480, 99_999])).tolist() == [0, 0, 0.25, 0.5, 1, 1]
    assert OverlongPenalty(max_length=4, cache_length=4, factor=0.5).of(np.array([0, 1, 4])).tolist() == [0, 0.125, 0.5]


def test_each_response_of_an_episode_is_judged_by_itself(parts):
    """Responses of 2 and 5 tokens: with L_max = 6 and L_cache = 4 they lose 0 and ¾, besides 0.1 for the malformed."""
    turns = [parts.make_turn([1], [7] * 2, reward=1.0, valid=False), parts.make_turn([1], [7] * 5, reward=2.0)]
    episode = parts.make_episode(turns)
    found = Outcomes.of([episode], 0.1, overlong_penalty=OverlongPenalty(max_length=6, cache_length=4))
    assert found.reward_U == pytest.approx([0.9, 1.25])
    assert found.return_E == pytest.approx([2.15])
    config = TrainConfig(overlong_penalty=OverlongPenalty(max_length=6, cache_length=4), reward_range=(1, 2))
    assert config.outcomes([episode]).reward_U == pytest.approx([0.9, 1.25])  # the range is of rewards alone


def test_the_filter_leaves_out_what_a_limit_cut(parts):
    episodes = [
        parts.make_episode([parts.make_turn([1], [2]), parts.make_turn([1], [3, 4], finish="length")], "a"),
        parts.make_episode([parts.make_turn([1], [5], truncated=True)], "b"),
        parts.make_episode([parts.make_turn([1], [6], terminated=True)], "c"),
    ]
    assert [each.tolist() for each in uncut_turns(episodes, "responses")] == [[True, False], [True], [True]]
    assert [each.tolist() for each in uncut_turns(episodes, "episodes")] == [[False, False], [False], [True]]
    stream = flatten(build_rows(episodes)[0], torch.ones(5))
    assert masked(stream, uncut_turns(episodes, "responses")).weight_N.tolist() == [1, 0, 0, 1, 1]
    assert masked(stream, uncut_turns(episodes, "episodes")).weight_N.tolist() == [0, 0, 0, 0, 1]


def test_training_leaves_cut_responses_out_of_the_loss_and_not_of_the_groups(parts, make_trainer, tmp_path):
    """At eleven new tokens some answers are cut: with the filter they weigh nothing, returns stay."""
    found = {}
    for overlong in (None, "responses", "episodes"):
        trainer = parts.make_trainer(tmp_path / str(overlong), **QUIET, overlong_filter=overlong)
        trainer.collector._options["sampling"] = Sampling(max_new_tokens=11)
        found[overlong] = trainer.iterate()
        trainer.close()
    plain, responses, episodes = found.values()
    assert "overlong/masked" not in plain
    assert 0 < responses["overlong/masked"] < episodes["overlong/masked"] <= 1
    for name in ("success", "return", "groups/with_variance", "tokens/policy"):
        assert plain[name] == responses[name] == episodes[name]
    assert plain["grad_norm"] != responses["grad_norm"] != episodes["grad_norm"]


def test_the_penalty_reaches_the_advantages_and_leaves_the_reported_return(parts, make_trainer, tmp_path):
    plain = make_trainer(tmp_path / "a", **QUIET).iterate()
    penalty = OverlongPenalty(max_length=14, cache_length=6, factor=0.5)
    found = make_trainer(tmp_path / "b", **QUIET, overlong_penalty=penalty).iterate()
    assert found["return"] == plain["return"]
    assert found["grad_norm"] != plain["grad_norm"]


def test_settings_that_contradict_each_other_or_would_do_nothing_are_refused(parts, make_trainer, tmp_path):
    with pytest.raises(ValidationError, match=r"cache_length = 9 exceeds max_length = 8"):
        OverlongPenalty(max_length=8, cache_length=9)
    for wrong in (
        {"max_length": 8},
        {"max_length": 8, "cache_length": 0},
        {"max_length": 8, "cache_length": 4, "on": 1},
    ):
        with pytest.raises(ValidationError):
            TrainConfig.model_validate({"overlong_penalty": wrong})
    with pytest.raises(ValidationError):
        TrainConfig.model_validate({"overlong_filter": "turns"})
    with pytest.raises(
        ConfigError, match=r"of up to max_length - cache_length = 24 tokens, and sampling.max_new_tokens = 24"
    ):
        make_trainer(tmp_path, overlong_penalty=OverlongPenalty(max_length=30, cache_length=6))
    make_trainer(
        tmp_path, overlong_penalty=OverlongPenalty(max_length=30, cache_length=7)
    )  # one token can be penalised
