"""The replay buffer: what enters and leaves, sampling, and restoring any past iteration."""

from __future__ import annotations

import sqlite3
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentkit.errors import RecordError
from agentkit.memory.log import EpisodeLog
from agentkit.training.config import ImitationConfig
from agentkit.training.replay import ReplayBuffer
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
