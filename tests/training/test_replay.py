"""The replay buffer: what enters and leaves, sampling, and restoring any past iteration."""

from __future__ import annotations

import sqlite3
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from agentkit.errors import RecordError
from agentkit.memory.log import EpisodeLog
from agentkit.training.config import ImitationConfig, TrainConfig
from agentkit.training.losses import SPEAR, Replayed, Shaped, Supervised
from agentkit.training.mismatch import IcePop, Mismatch
from agentkit.training.replay import BufferConfig, ReplayBuffer
from agentkit.training.replay.selection import (
    Highest,
    MaxVariance,
    MinEntropy,
    P2Value,
    Priority,
    Recent,
    Uniform,
    WholeGroups,
)
from agentkit.training.rows import build_rows


@pytest.fixture
def log(tmp_path):
    with EpisodeLog.open(tmp_path / "episodes.sqlite") as opened:
        yield opened


@pytest.fixture
def make_buffer(tmp_path, log):
    """Buffers over one file, closed at the end."""
    made = []

    def make(**changes):
        made.append(ReplayBuffer(tmp_path / "replay.sqlite", log, ImitationConfig(**changes)))
        return made[-1]

    yield make
    for buffer in made:
        buffer.close()


def sound_turn(parts, **changes):
    """A turn that ended its episode, as that of a success does."""
    return parts.make_turn([1, 2], [3, 4]).model_copy(update={"action": "go", "terminated": True, **changes})


@pytest.fixture
def episodes(parts):
    """`episodes("ab", version=3)`: two successful episodes of that policy version; capitals are failures."""

    def make(names, version=0):
        turns = [sound_turn(parts)]
        return [
            parts.make_episode(turns, name=f"{name.lower()}", policy_version=version, success=name.islower())
            for name in names
        ]

    return make


def names(buffer):
    return "".join(entry.episode_id for entry in buffer.entries)


def test_successes_that_beat_their_group_enter(make_buffer, episodes):
    buffer = make_buffer()
    admitted = buffer.update(episodes("abCd"), [0.5, 0.0, 0.5, -0.5], iteration=1, version=1)
    assert (admitted, names(buffer), len(buffer)) == (1, "a", 1)
    assert buffer.entries[0].advantage == 0.5


def test_the_bar_can_be_raised(make_buffer, episodes):
    buffer = make_buffer(admit_above=0.5)
    buffer.update(episodes("abc"), [0.5, 0.51, 0.4], iteration=1, version=1)
    assert names(buffer) == "b"


def test_entries_leave_when_the_policy_has_moved_on(make_buffer, episodes):
    buffer = make_buffer(max_staleness=2)
    buffer.update(episodes("ab", version=0), [1, 1], iteration=1, version=1)
    buffer.update(episodes("c", version=1), [1], iteration=2, version=2)
    assert names(buffer) == "abc"  # two steps old: still in
    buffer.update(episodes("d", version=2), [1], iteration=3, version=3)
    assert names(buffer) == "cd"


def test_the_oldest_leave_when_it_is_full(make_buffer, episodes):
    buffer = make_buffer(capacity=3)
    buffer.update(episodes("ab"), [1, 2], iteration=1, version=1)
    buffer.update(episodes("cde"), [3, 4, 5], iteration=2, version=1)
    assert names(buffer) == "cde"
    buffer.update(episodes("fghij"), [1] * 5, iteration=3, version=1)
    assert names(buffer) == "hij"


def test_a_buffer_that_ran_empty_fills_again(make_buffer, episodes):
    buffer = make_buffer(max_staleness=1)
    buffer.update(episodes("ab"), [1, 1], iteration=1, version=1)
    buffer.update([], [], iteration=2, version=9)
    assert len(buffer) == 0
    buffer.update(episodes("cd", version=9), [1, 1], iteration=3, version=9)
    assert names(buffer) == "cd"
    assert names(make_buffer(max_staleness=1)) == "cd"
    buffer.restore(1)
    assert names(buffer) == "ab"


def test_sampling_is_proportional_to_the_advantage(make_buffer, episodes):
    buffer = make_buffer()
    buffer.update(episodes("abcd"), [0.1, 0.2, 0.3, 0.4], iteration=1, version=1)
    rng = np.random.default_rng(0)
    draws = [buffer.sample(1, rng)[0].episode_id for _ in range(4000)]
    shares = [draws.count(name) / 4000 for name in "abcd"]
    # Standard error of a share is at most sqrt(0.25 / 4000) = 0.008.
    assert shares == pytest.approx([0.1, 0.2, 0.3, 0.4], abs=0.03)


def test_a_sample_holds_different_entries_in_order_of_admission_and_follows_the_seed(make_buffer, episodes):
    buffer = make_buffer()
    buffer.update(episodes("abcdefgh"), [1] * 8, iteration=1, version=1)
    one, two = (buffer.sample(5, np.random.default_rng(7)) for _ in range(2))
    assert one == two
    numbers = [entry.number for entry in one]
    assert numbers == sorted(set(numbers))
    assert len(numbers) == 5
    assert {tuple(buffer.sample(5, np.random.default_rng(seed))) for seed in range(5)} != {tuple(one)}


def test_a_sample_has_at_most_what_is_there(make_buffer, episodes):
    buffer = make_buffer()
    assert buffer.sample(4, np.random.default_rng(0)) == []
    buffer.update(episodes("ab"), [1, 1], iteration=1, version=1)
    assert len(buffer.sample(4, np.random.default_rng(0))) == 2


def test_rows_are_those_of_the_logged_episode_and_read_once(make_buffer, episodes, log, monkeypatch):
    (episode,) = episodes("a")
    log.append(episode)
    buffer = make_buffer()
    buffer.update([episode], [1.0], iteration=1, version=1)
    (row,) = buffer.rows(buffer.entries[0])
    (expected,) = build_rows([episode])[0]
    assert row.ids.tolist() == expected.ids.tolist()
    assert row.sampled.tolist() == expected.sampled.tolist()
    monkeypatch.setattr(log, "get", lambda id: pytest.fail("read twice"))
    buffer.rows(buffer.entries[0])


def test_an_entry_without_its_episode_is_an_error_with_the_way_out(make_buffer, episodes):
    buffer = make_buffer()
    buffer.update(episodes("a"), [1.0], iteration=1, version=1)
    with pytest.raises(RecordError, match=r"is not in the log .* restore them together"):
        buffer.rows(buffer.entries[0])


def test_a_damaged_file_is_an_error_with_the_way_out(tmp_path, log, make_buffer, episodes):
    make_buffer().close()
    (tmp_path / "replay.sqlite").write_bytes(b"not a database" * 1000)
    with pytest.raises(RecordError, match=r"replay\.sqlite.* can be deleted"):
        make_buffer()


def test_a_path_with_characters_of_urls_works(tmp_path, log, episodes):
    path = tmp_path / "a?b#c%20.sqlite"
    buffer = ReplayBuffer(path, log, ImitationConfig())
    buffer.update(episodes("a"), [1.0], iteration=1, version=1)
    buffer.close()
    assert path.is_file()


def test_a_failed_write_changes_nothing(tmp_path, make_buffer, episodes):
    buffer = make_buffer()
    buffer.update(episodes("a"), [1.0], iteration=1, version=1)
    with sqlite3.connect(tmp_path / "replay.sqlite") as other:
        other.execute("CREATE TRIGGER no_more BEFORE INSERT ON entries BEGIN SELECT RAISE(ABORT, 'disk full'); END")
    with pytest.raises(RecordError, match="disk full"):
        buffer.update(episodes("b"), [1.0], iteration=2, version=1)
    assert names(buffer) == names(make_buffer()) == "a"


UPDATES = st.lists(
    st.tuples(st.lists(st.floats(-1, 1), max_size=4), st.integers(0, 3), st.booleans()), min_size=1, max_size=8
)


@given(UPDATES, st.data())
@settings(max_examples=40, deadline=None)
def test_a_restored_buffer_is_the_one_of_that_iteration_whatever_came_later(parts, updates, data):
    """Random updates, reopened in between and restored at random, against a list kept of each iteration."""
    config = ImitationConfig(capacity=5, max_staleness=3)
    with tempfile.TemporaryDirectory() as folder, EpisodeLog.open(Path(folder) / "log.sqlite") as log:

        def reopen():
            return ReplayBuffer(Path(folder) / "replay.sqlite", log, config)

        buffer = reopen()
        turns = [sound_turn(parts)]
        history, versions = [()], [0]
        for gains, steps, again in updates:
            number = len(history)
            version = versions[-1] + steps
            made = [
                parts.make_episode(turns, name=f"{number}-{i}-{gain}", policy_version=versions[-1])
                for i, gain in enumerate(gains)
            ]
            buffer.update(made, gains, iteration=number, version=version)
            history.append(buffer.entries)
            versions.append(version)
            if again:
                buffer.close()
                buffer = reopen()
                assert buffer.entries == history[-1]
            if data.draw(st.integers(0, 3)) == 0:
                back = data.draw(st.integers(0, len(history) - 1))
                buffer.restore(back)
                del history[back + 1 :], versions[back + 1 :]
                assert buffer.entries == history[-1]
        for back in reversed(range(len(history))):
            buffer.restore(back)
            assert buffer.entries == history[back]
            buffer.close()
            buffer = reopen()
            assert buffer.entries == history[back]
        buffer.close()


def test_doubtful_episodes_and_those_shown_a_quarantined_memory_are_left_out_with_one_warning(log, make_buffer, parts):
    def episode(name, **changes):
        return parts.make_episode([sound_turn(parts, **changes)], name=name, success=True)

    played = [
        episode("sound"),
        episode("forged", terminated=False),
        episode("lured", memory_ids=("m-1",)),
    ]
    log.append_many(played)
    buffer = make_buffer()
    with pytest.warns(RuntimeWarning, match="episode forged is not replayed: success without a terminal state") as said:
        assert buffer.update(played, [0.5] * 3, iteration=1, version=0, quarantined={"m-1"}) == 1
    assert len(said) == 1
    assert [entry.episode_id for entry in buffer.entries] == ["sound"]


def test_entries_leave_when_a_memory_that_they_were_shown_comes_into_quarantine(log, make_buffer, parts):
    def episode(name, *memories):
        return parts.make_episode([sound_turn(parts, memory_ids=memories)], name=name, success=True)

    attempts = [episode("alone"), episode("one", "m-1"), episode("both", "m-1", "m-2")]
    log.append_many(attempts)
    buffer = make_buffer()
    buffer.update(attempts, [0.5] * 3, iteration=1, version=0)
    assert len(buffer) == 3
    buffer.update([], [], iteration=2, version=0, quarantined={"m-2"})
    assert [entry.episode_id for entry in buffer.entries] == ["alone", "one"]
    buffer.update([], [], iteration=3, version=0, quarantined={"m-1", "m-2"})
    assert [entry.episode_id for entry in buffer.entries] == ["alone"]
    buffer.restore(2)
    assert [entry.episode_id for entry in buffer.entries] == ["alone", "one"]
    buffer.update([], [], iteration=3, version=0, quarantined={"m-1"})
    assert [entry.episode_id for entry in buffer.entries] == ["alone"], "what is known to be barred is of that moment"


def played(parts, names, *, task=0, group="", reward=0.0, **changes):
    """Sound attempts at one task; capitals are failures."""
    turns = [sound_turn(parts, reward=reward)]
    made = [
        parts.make_episode(turns, name=name, success=name.islower(), group_id=group or f"group-{task}", **changes)
        for name in names
    ]
    return [each.model_copy(update={"task": each.task.model_copy(update={"seed": task})}) for each in made]


def test_what_is_admitted_can_be_any_signal_or_anything(make_buffer, parts):
    attempts, gains = played(parts, "aBcD"), [0.5, -0.5, 0.0, -0.05]
    for admit, bar, expected in (
        ("signal", 0.0, "aBD"),
        ("signal", 0.1, "aB"),
        ("any", 0.0, "aBcD"),
        ("success", 0.0, "a"),
    ):
        buffer = make_buffer(admit=admit, admit_above=bar)
        buffer.restore(0)
        buffer.update(attempts, gains, iteration=1, version=0)
        assert names(buffer) == expected


def test_a_task_keeps_its_newest(make_buffer, parts):
    buffer = make_buffer(per_task=2, capacity=4)
    buffer.update(played(parts, "ab") + played(parts, "xy", task=1), [1] * 4, iteration=1, version=0)
    buffer.update(played(parts, "c"), [1], iteration=2, version=0)
    assert names(buffer) == "bxyc"
    buffer.update(played(parts, "de"), [1, 1], iteration=3, version=0)
    assert (names(buffer), buffer.num_of_task(played(parts, "a")[0].task.key)) == ("xyde", 2)
    buffer.restore(2)
    assert names(buffer) == "bxyc"


def test_a_newer_group_takes_the_place_of_a_tasks_older_one(make_buffer, parts):
    buffer = make_buffer(newest_group_only=True)
    buffer.update(played(parts, "ab", group="one") + played(parts, "x", task=1), [1] * 3, iteration=1, version=0)
    buffer.update(played(parts, "cd", group="two"), [1, 1], iteration=2, version=0)
    assert names(buffer) == "xcd"


def test_without_a_limit_nothing_is_stale(make_buffer, parts):
    buffer = make_buffer(max_staleness=None)
    buffer.update(played(parts, "a"), [1], iteration=1, version=0)
    buffer.update([], [], iteration=2, version=10**9)
    assert names(buffer) == "a"


def test_an_emptied_buffer_is_written_down_with_the_next_iteration(make_buffer, parts):
    buffer = make_buffer()
    buffer.update(played(parts, "ab"), [1, 1], iteration=1, version=0)
    buffer.empty()
    assert len(buffer) == 0
    assert names(make_buffer()) == "ab"
    buffer.update(played(parts, "c"), [1], iteration=2, version=0)
    assert names(make_buffer()) == "c"
    buffer.restore(1)
    assert names(buffer) == "ab"


def test_new_entries_have_the_greatest_priority_and_replayed_ones_their_own(make_buffer, parts):
    config = {"select": Priority(alpha=1.0, beta=1.0, epsilon=1e-9)}
    buffer = make_buffer(**config)
    buffer.update(played(parts, "ab"), [0.5, 0.1], iteration=1, version=0)
    one, two = buffer.entries
    assert buffer.importance([one, two]).tolist() == [1.0, 1.0]
    buffer.refresh([one, two], [4.0, 1.0])
    # P = 4/5 and 1/5 of 2: (8/5)^-1 and (2/5)^-1, over the greater.
    assert buffer.importance([one, two]).tolist() == pytest.approx([0.25, 1.0])
    buffer.update(played(parts, "c"), [0.1], iteration=2, version=0)
    rng = np.random.default_rng(0)
    draws = [buffer.sample(1, rng)[0].episode_id for _ in range(3000)]
    assert [draws.count(name) / 3000 for name in "abc"] == pytest.approx([4 / 9, 1 / 9, 4 / 9], abs=0.03)
    again = make_buffer(**config)
    assert again.importance(again.entries).tolist() == buffer.importance(buffer.entries).tolist()
    buffer.restore(1)
    assert buffer.importance(buffer.entries).tolist() == [1.0, 1.0]


def test_a_sample_can_be_of_one_task_or_above_a_return(make_buffer, parts):
    buffer = make_buffer(admit="any")
    attempts = [*played(parts, "ab", reward=1), *played(parts, "xy", task=1), *played(parts, "z", task=1, reward=2)]
    buffer.update(attempts, [1.0] * 5, iteration=1, version=0)
    rng, task = np.random.default_rng(0), attempts[-1].task.key
    assert [entry.episode_id for entry in buffer.sample(9, rng, task=task)] == ["x", "y", "z"]
    assert [entry.episode_id for entry in buffer.sample(9, rng, above=0.5)] == ["a", "b", "z"]
    assert buffer.sample(9, rng, task="none") == buffer.sample(9, rng, above=5) == []


RULES = [Uniform(), Priority(), P2Value(), Highest(), Recent(), MaxVariance(), WholeGroups()]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_a_restored_buffer_draws_what_it_would_have_drawn(make_buffer, parts, rule):
    """Random admissions, expiries and refreshes; then later iterations are undone and 100 batches compared."""
    config = {"admit": "any", "capacity": 12, "per_task": 4, "max_staleness": 6, "select": rule}
    buffer, rng = make_buffer(**config), np.random.default_rng(1)

    def go_on(iteration):
        for entry in buffer.sample(3, rng, entropy_of=entropy_of):
            buffer.refresh([entry], [float(rng.random())])
        attempts = [
            attempt
            for place in range(3)
            for attempt in played(
                parts,
                [f"{'aB'[int(rng.integers(2))]}-{iteration}-{place}-{i}" for i in range(2)],
                task=int(rng.integers(4)),
                group=f"{iteration}-{place}",
                reward=float(rng.integers(3)),
                policy_version=iteration,
            )
        ]
        buffer.update(attempts, rng.normal(size=len(attempts)).tolist(), iteration=iteration, version=iteration)

    def entropy_of(entries):
        return np.array([hash(entry.episode_id) % 97 for entry in entries], np.float64)

    def batches(of):
        return [of.sample(3, np.random.default_rng(seed), entropy_of=entropy_of) for seed in range(100)]

    for iteration in range(1, 9):
        go_on(iteration)
    expected, entries = batches(buffer), buffer.entries
    assert any(expected)
    assert batches(make_buffer(**config)) == expected
    for iteration in range(9, 14):
        go_on(iteration)
    assert buffer.entries != entries
    buffer.restore(8)
    assert buffer.entries == entries
    assert batches(buffer) == expected


KNOWN: dict[str, dict[str, Any]] = {
    "RLEP's ratio": {"select": Uniform(), "loss": Replayed(base="current"), "max_staleness": None},
    "RePO": {
        "admit": "any",
        "per_task": 16,
        "select": Highest(),
        "baseline": "split",
        "per_group": 8,
        "per_group_wait": 16,
        "loss": Replayed(),
        "reduction": "seq-mean-token-mean",
        "weight": 1.0,
    },
    "RePO by entropy": {"admit": "any", "select": MinEntropy(), "baseline": "split", "loss": Replayed()},
    "ExGRPO's shaping": {"select": Uniform(), "loss": Shaped(), "wait_for_success": 0.35, "max_staleness": None},
    "SPEAR": {
        "loss": SPEAR(),
        "admit": "better",
        "select": Uniform(),
        "own_step": True,
        "capacity": 4096,
        "wait_for_entries": 3073,
        "episodes_per_step": 2048,
        "empty_after_use": True,
        "weight": 1.0,
    },
    "DOTS": {
        "admit": "signal",
        "select": WholeGroups(),
        "newest_group_only": True,
        "max_staleness": None,
        "loss": Replayed(),
    },
    "PER": {"admit": "signal", "select": Priority()},
    "BTP": {"admit": "any", "select": P2Value(), "loss": Supervised()},
    "SSR": {"admit": "signal", "loss": Replayed()},
    "unified": {"loss": Replayed(base="current"), "mismatch": Mismatch(weigh=IcePop())},
}


@pytest.mark.parametrize("case", KNOWN)
def test_known_schemes_are_settings_and_train(make_trainer, tmp_path, case):
    """Small enough to replay within three iterations; every other number is the scheme's own."""
    small = {"per_group_wait": 2, "wait_for_entries": 2, "wait_for_success": 0.01, "episodes_per_step": 4}
    assert TrainConfig(imitation=ImitationConfig(**KNOWN[case]), task_pool=16)
    numbers = KNOWN[case] | {name: value for name, value in small.items() if name in KNOWN[case]}
    trainer = make_trainer(
        tmp_path, imitation=ImitationConfig(**numbers), task_pool=3, bottleneck_every=0, entropy_coef=0
    )
    values = [trainer.iterate() for _ in range(3)]
    losses = [each["loss/imitation"] for each in values if "loss/imitation" in each]
    assert losses, "nothing was replayed"
    assert all(np.isfinite(losses))
    assert all(each["tokens/imitation"] > 0 for each in values if "loss/imitation" in each)


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ({"admit": "any", "admit_above": 0.1}, ["admit = 'any'", "admit_above = 0.1"]),
        ({"per_task": 9, "capacity": 8}, ["per_task = 9", "capacity = 8"]),
        ({"wait_for_entries": 9, "capacity": 8}, ["wait_for_entries = 9", "capacity = 8"]),
        ({"mismatch": Mismatch()}, ["mismatch", "loss = 'sil'"]),
        ({"per_group": 4}, ["per_group", "baseline = 'group'"]),
        ({"baseline": "split", "episodes_per_step": 4}, ["episodes_per_step", "per_group"]),
        ({"baseline": "split", "select": WholeGroups()}, ["select = 'groups'", "baseline = 'split'"]),
        ({"baseline": "split", "per_task": 2, "per_group_wait": 3}, ["per_group_wait = 3", "per_task = 2"]),
        ({"select": MinEntropy()}, ["select = 'min-entropy'", "baseline = 'group'"]),
    ],
)
def test_contradictory_settings_are_refused(numbers, words):
    with pytest.raises(ValidationError) as caught:
        ImitationConfig(**numbers)
    assert all(word in str(caught.value) for word in words)


def test_split_needs_tasks_that_come_again():
    with pytest.raises(ValidationError, match="task_pool = None"):
        TrainConfig(imitation=ImitationConfig(baseline="split"))
    assert BufferConfig().select.name == "advantage"
