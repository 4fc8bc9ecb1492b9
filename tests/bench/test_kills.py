from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentkit.bench import kills
from agentkit.bench.killed import WRITES_A_TURN
from agentkit.bench.kills import Expected


def test_what_was_acknowledged_and_is_gone_is_counted_once_each() -> None:
    expected = Expected(versions={"a": 2, "b": 1, "c": 1}, forgotten={"d"}, snapshots={"s": "1-x"})
    assert expected.lost({"a": 2, "b": 1, "c": 1}, {"s": "1-x"}) == 0
    assert expected.lost({"a": 1, "b": 1, "c": 1}, {"s": "1-x"}) == 1  # a version
    assert expected.lost({"a": 3, "b": 1}, {"s": "1-x"}) == 1  # a memory
    assert expected.lost({"a": 2, "b": 1, "c": 1, "d": 1}, {"s": "1-x"}) == 1  # what was forgotten is back
    assert expected.lost({"a": 2, "b": 1, "c": 1}, {}) == 1  # a snapshot


def test_what_was_under_way_when_the_writer_died_may_be_there_or_not() -> None:
    expected = Expected(versions={"a": 1, "b": 1})
    assert not expected.note({"what": "forgets", "subject": "a"})
    assert not expected.note({"what": "forgets", "subject": "b"})  # by another thread
    assert expected.lost({}, {}) == expected.lost({"a": 1}, {}) == expected.lost({"a": 1, "b": 1}, {}) == 0
    assert expected.note({"what": "forgot", "subject": "a"})
    assert expected.lost({"a": 1}, {}) == 1
    assert not expected.note({"what": "writes", "subject": "a"})
    assert expected.lost({"a": 1}, {}) == expected.lost({}, {}) == 0
    assert expected.note({"what": "wrote", "subject": "a", "version": 1})
    assert expected.lost({}, {}) == 1


def test_threads_may_tell_their_versions_in_any_order() -> None:
    expected = Expected()
    for version in (2, 1):
        assert expected.note({"what": "wrote", "subject": "a", "version": version})
    assert expected.lost({"a": 1}, {}) == 1
    assert expected.lost({"a": 2}, {}) == 0


def test_a_writer_that_fails_by_itself_is_counted(tmp_path: Path) -> None:
    (tmp_path / "memory.sqlite").write_text("not a database, and long enough to be looked at as one" * 20)
    counts: kills.Counts = kills.Counts()
    kills.run_writers(tmp_path, 1, 1, counts)
    assert sum(number for (_, what), number in counts.items() if what == "silent") >= 1


def test_what_the_next_writer_does_not_hold_is_blamed_on_the_phase_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = kills._lines

    def forgetful(child: Any) -> Iterator[dict[str, Any]]:
        return ({**line, "versions": {}} if line["what"] == "held" else line for line in told(child))

    monkeypatch.setattr(kills, "PHASES", ("writing",))
    monkeypatch.setattr(kills, "MOST_S", {"writing": 1.5})
    monkeypatch.setattr(kills, "_lines", forgetful)
    counts: kills.Counts = kills.Counts()
    kills.run_writers(tmp_path, 1, 4, counts)
    assert counts["writing", "acknowledged"] > 0
    assert counts["writing", "lost"] > 0
    assert counts["writing", "silent"] == 0


def test_processes_that_take_turns_lose_nothing_though_every_second_is_killed(tmp_path: Path) -> None:
    counts: kills.Counts = kills.Counts()
    kills.run_turns(tmp_path, 2, 1, counts)
    assert counts["turns", "acknowledged"] >= WRITES_A_TURN  # all of the one that is not killed
    assert counts["turns", "lost"] == counts["turns", "unsound"] == counts["turns", "silent"] == 0
    assert counts["turns", "kills"] <= 1
