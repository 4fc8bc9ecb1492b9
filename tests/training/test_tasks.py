"""Task samplers: what they choose and learn by hand, against the formulas, and that a resumed run goes on alike."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from agentkit.errors import CheckpointError, ConfigError
from agentkit.training.advantages import GRPO
from agentkit.training.config import TrainConfig
from agentkit.training.tasks import SEC, VADE, Beliefs, Difficulty, InOrder, MoPPS, UniformTasks

SAMPLERS = [InOrder(), UniformTasks(), MoPPS(), VADE(), Difficulty(), SEC(), SEC(parameter="size", values=(3, 4))]
NOTHING = np.zeros(0)


def rng(seed=0):
    return np.random.default_rng(seed)


def beliefs(won, lost, values=()):
    return Beliefs(0, np.array(won, np.float64), np.array(lost, np.float64), np.array(values, np.float64))


@pytest.mark.parametrize("sampler", SAMPLERS)
@given(st.integers(1, 9), st.integers(1, 12), st.data())
def test_chosen_tasks_are_different_free_and_of_the_pool(sampler, pool, num, data):
    known = Beliefs.about(pool, sampler.num_categories)
    known.won_T[:] = data.draw(st.lists(st.floats(0, 9), min_size=pool, max_size=pool))
    known.next = data.draw(st.integers(0, pool - 1))
    taken = set() if isinstance(sampler, InOrder) else data.draw(st.sets(st.integers(0, pool - 1)))
    chosen = sampler.pick(known, num, taken, rng())
    assert len(chosen) == len(set(chosen)) == min(num, pool - len(taken))
    assert set(chosen) <= set(range(pool)) - taken


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_same_seed_chooses_the_same(sampler):
    found = []
    for seed in (1, 1, 2):
        known = Beliefs.about(30, sampler.num_categories)
        found.append(sampler.pick(known, 6, set(), rng(seed)))
    assert found[0] == found[1]
    assert (found[0] == found[2]) == isinstance(sampler, InOrder)


def test_an_endless_order_never_repeats():
    known = Beliefs()
    assert [InOrder().pick(known, 3, set(), rng()) for _ in range(2)] == [[0, 1, 2], [3, 4, 5]]
    InOrder().learn(known, [0], np.array([1]), np.array([1]), np.array([0.5]))
    assert known == Beliefs(6, known.won_T, known.lost_T, known.value_C)


def test_mopps_learns_by_hand_and_looks_for_what_is_half_solved():
    known = beliefs([8, 4, 0], [0, 4, 8])
    MoPPS(memory=0.5).learn(known, [0, 2], np.array([3, 1]), np.array([1, 3]), NOTHING)
    assert (known.won_T.tolist(), known.lost_T.tolist()) == ([7, 4, 1], [1, 4, 7])
    # α ← λα + (1 − λ)·1 + s in the source's terms: 0.5·9 + 0.5 + 3 = 8 = 1 + won.
    assert known.mean_T.tolist() == pytest.approx([8 / 10, 5 / 10, 2 / 10])
    sure = beliefs([9e6, 5e6, 1e6, 4e6], [1e6, 5e6, 9e6, 6e6])
    assert MoPPS().pick(sure, 2, set(), rng()) == [1, 3]
    assert MoPPS(target=0.9).pick(sure, 1, set(), rng()) == [0]
    assert MoPPS().pick(sure, 2, {1}, rng()) == [3, 2] or MoPPS().pick(sure, 2, {1}, rng()) == [3, 0]


def test_what_is_not_known_is_explored():
    """A task with much evidence of success is drawn at random less near ½ than one without any evidence."""
    known = beliefs([50, 0], [0, 0])
    firsts = [MoPPS().pick(known, 1, set(), rng(seed))[0] for seed in range(200)]
    assert firsts.count(1) > 190


def test_vade_fades_at_two_speeds_by_hand():
    known = beliefs([10, 10], [20, 20])
    VADE(memory=0.9, played_memory=0.5).learn(known, [1], np.array([2]), np.array([0]), NOTHING)
    assert known.won_T.tolist() == pytest.approx([9, 10 * 0.45 + 2])
    assert known.lost_T.tolist() == pytest.approx([18, 9])
    sure = beliefs([9e6, 4e6, 1e5], [1e6, 6e6, 9e6])  # p(1 − p) = 0.09, 0.24, 0.01
    assert VADE().pick(sure, 3, set(), rng()) == [1, 0, 2]


def test_difficulty_draws_as_the_softmax_says():
    known = beliefs([4, 2, 6], [4, 6, 2])  # means 0.5, 0.3, 0.7
    sampler = Difficulty(temperature=0.2)
    weight = np.exp(-np.array([0, 0.2, 0.2]) / 0.2)
    firsts = [sampler.pick(known, 1, set(), rng(seed))[0] for seed in range(3000)]
    shares = [firsts.count(task) / 3000 for task in range(3)]
    assert shares == pytest.approx((weight / weight.sum()).tolist(), abs=0.03)  # standard error at most 0.0091
    assert Difficulty().pick(known, 1, set(), rng()) == [0]  # DOTS's own temperature is all but a maximum


def test_sec_learns_and_draws_by_hand():
    sampler = SEC(parameter="size", values=(3, 4), rate=0.5, temperature=0.25)
    known = Beliefs.about(8, 2)
    won, lost = np.array([2, 1, 0]), np.array([2, 3, 2])
    sampler.learn(known, [0, 2, 1], won, lost, np.array([0.5, 0.25, 0.0]))
    # Tasks 0 and 2 are of category 0: (4·0.5 + 4·0.25) / 8 = 0.375, half of it learnt; category 1 stays at 0.
    assert known.value_C.tolist() == pytest.approx([0.1875, 0])
    sampler.learn(known, [4], np.array([1]), np.array([1]), np.array([0.5]))
    assert known.value_C[0] == pytest.approx(0.1875 + 0.5 * (0.5 - 0.1875))
    known.value_C[:] = [0.5, 0.25]
    firsts = [sampler.pick(known, 1, set(), rng(seed))[0] % 2 for seed in range(2000)]
    assert firsts.count(0) / 2000 == pytest.approx(np.e / (np.e + 1), abs=0.04)  # e^2 : e^1
    assert {sampler.params(number)["size"] for number in (0, 2)} == {3}
    assert sampler.params(1) == {"size": 4}


def test_sec_without_a_parameter_bins_by_expected_difficulty():
    known = beliefs([0, 98, 4, 0], [98, 0, 4, 0], [0] * 5)  # means 0.01, 0.99, 0.5, 0.5
    assert SEC().categories(known).tolist() == [0, 4, 2, 2]
    SEC(rate=1).learn(known, [2], np.array([2]), np.array([2]), np.array([0.5]))
    assert known.value_C.tolist() == [0, 0, 0.5, 0, 0]


def test_values_far_apart_do_not_overflow():
    known = Beliefs(0, np.zeros(4), np.zeros(4), np.array([1e6, 0.0]))
    chosen = SEC(parameter="a", values=(1, 2), temperature=1e-3).pick(known, 4, set(), rng())
    assert sorted(chosen[:2]) == [0, 2]
    assert sorted(chosen) == [0, 1, 2, 3]


@given(st.lists(st.floats(0, 1e6), min_size=3, max_size=3), st.integers(0, 9))
def test_beliefs_survive_a_checkpoint_to_the_bit(won, place):
    known = beliefs(won, won[::-1], won[:2])
    known.next = place
    again = Beliefs.about(3, 2)
    again.restore(json.loads(json.dumps(known.state())))
    assert again.state() == known.state()
    assert VADE().pick(again, 2, set(), rng(place)) == VADE().pick(known, 2, set(), rng(place))


def test_beliefs_of_another_pool_are_refused():
    with pytest.raises(CheckpointError, match="knew 3 won_T, this one 4; resume with the same tasks"):
        Beliefs.about(4).restore(Beliefs.about(3).state())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"tasks": MoPPS()}, "tasks = 'mopps' and task_pool = None"),
        ({"tasks": {"name": "sec", "parameter": "size"}}, "parameter = 'size' and values"),
        ({"tasks": {"name": "sec", "values": [1, 2]}}, "give both or neither"),
        ({"tasks": {"name": "sec", "parameter": "size", "values": [1, 2], "bins": 3}}, "one or the other"),
        ({"tasks": {"name": "vades"}}, "vades"),
    ],
)
def test_samplers_that_do_not_fit_are_refused(settings, words):
    with pytest.raises(ValidationError, match=words):
        TrainConfig(**settings)


@pytest.mark.parametrize("sampler", [MoPPS(), SEC()])
def test_a_resumed_run_goes_on_with_the_same_tasks(parts, tmp_path, sampler):
    changes = {"tasks": sampler, "task_pool": 9, "imitation": {"weight": 0}, "bottleneck_every": 0}

    def run(folder, iterations, restore=False):
        trainer = parts.make_trainer(folder, iterations=iterations, **changes)
        if restore:
            trainer.restore()
        trainer.train()
        tasks = [[episode.task.seed for episode in trainer.log.episodes()], trainer.collector.beliefs.state()]
        trainer.close()
        return tasks, parts.digest(trainer.policy.model)

    whole = run(tmp_path / "whole", 3)
    run(tmp_path / "part", 1)
    assert run(tmp_path / "part", 3, restore=True) == whole
    assert sum(whole[0][1]["won_T"]) + sum(whole[0][1]["lost_T"]) > 0


def test_the_curriculum_is_paid_by_the_advantages_that_teach(make_trainer, tmp_path):
    """Of attempts that earned 1 and 0, GRPO's mean |advantage| is 1, where |R − mean| would be ½."""
    sampler = SEC(parameter="p", values=(0.9, 0.7), rate=1.0)
    changes = {"tasks": sampler, "task_pool": 6, "imitation": {"weight": 0}, "bottleneck_every": 0}
    trainer = make_trainer(tmp_path, format_penalty=0, advantage=GRPO(), **changes)
    trainer.iterate()
    groups: dict[int, list[float]] = {}
    for episode in trainer.log.episodes():
        groups.setdefault(episode.task.seed, []).append(episode.episode_return)
    paid: dict[int, list[float]] = {}
    for number, returns in groups.items():
        gain = np.array(returns) - np.mean(returns)
        paid.setdefault(number % 2, []).append(float(np.abs(gain / (gain.std() + 1e-6)).mean()))
    found = trainer.collector.beliefs.value_C
    assert {place: float(found[place]) for place in paid} == pytest.approx(
        {place: float(np.mean(each)) for place, each in paid.items()}, abs=1e-5
    )
    assert found.max() > 0


def test_a_parameter_that_params_set_too_is_refused(parts, tmp_path):
    sampler = SEC(parameter="max_turns", values=(2, 3))
    with pytest.raises(ConfigError, match=r"tasks.parameter = 'max_turns' and the environment's params set .* = 2 too"):
        parts.make_trainer(tmp_path, tasks=sampler, task_pool=9)
