"""Planning tasks are translated once, survive damage, and cannot take for ever."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from agentkit.envs.alfworld import translation
from agentkit.envs.alfworld.translation import cache_folder, planning_task
from agentkit.errors import EnvironmentFault

pytestmark = pytest.mark.family("agentkit/ALFWorld-v0")
DOMAIN = """
(define (domain d) (:requirements :typing) (:types place) (:predicates (at ?p - place) (path ?p - place ?q - place))
 (:action go :parameters (?p - place ?q - place) :precondition (and (at ?p) (path ?p ?q))
  :effect (and (not (at ?p)) (at ?q))))
"""
PROBLEM = "(define (problem p) (:domain d) (:objects A B - place) (:init (at A) (path A B)) (:goal (and (at B))))"


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, in memory and on disk."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    translation._remembered.cache_clear()
    return tmp_path


def count_translations(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    asked: list[str] = []
    real = translation._translate

    def translate(domain: str, problem: str, game: str) -> str:
        asked.append(game)
        return real(domain, problem, game)

    monkeypatch.setattr(translation, "_translate", translate)
    return asked


def test_a_task_holds_what_the_game_needs(fresh: Path) -> None:
    arguments = list(sys.argv)
    task = planning_task(DOMAIN, PROBLEM, "g")
    assert task["actions"] == {"go": [["?p", "place"], ["?q", "place"]]}
    assert task["objects"] == {"a": "place", "b": "place"}
    assert sorted(task["facts"]) == [["at", ["a"]], ["path", ["a", "b"]]]
    assert ["place", ["object"]] in task["types"]
    assert task["sas"].startswith("begin_version\n3\n")
    assert sys.argv == arguments


def test_a_game_is_translated_once_and_then_read_from_the_folder(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = count_translations(monkeypatch)
    first = planning_task(DOMAIN, PROBLEM, "g")
    assert planning_task(DOMAIN, PROBLEM, "g") is first
    translation._remembered.cache_clear()
    assert planning_task(DOMAIN, PROBLEM, "g") == first
    assert asked == ["g"]
    assert [path.name[-7:] for path in (cache_folder() / "tasks").iterdir()] == [".json.z"]
    planning_task(DOMAIN, PROBLEM.replace("(at B)", "(at A)"), "other")
    assert asked == ["g", "other"]


@pytest.mark.parametrize("damage", [b"", b"nonsense", None, b"x\x9c\xab\xae\x05\x00\x01u\x00\xf9"])
def test_a_damaged_entry_is_made_anew(fresh: Path, monkeypatch: pytest.MonkeyPatch, damage: bytes | None) -> None:
    first = planning_task(DOMAIN, PROBLEM, "g")
    (entry,) = (cache_folder() / "tasks").iterdir()
    whole = entry.read_bytes()
    entry.write_bytes(whole[:-9] if damage is None else damage)
    translation._remembered.cache_clear()
    asked = count_translations(monkeypatch)
    assert planning_task(DOMAIN, PROBLEM, "g") == first
    assert asked == ["g"]
    assert entry.read_bytes() == whole


def test_a_folder_that_cannot_be_written_costs_time_only(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (fresh / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(fresh / "file"))
    assert planning_task(DOMAIN, PROBLEM, "g")["objects"] == {"a": "place", "b": "place"}


def test_a_malformed_problem_ends_in_one_error_that_names_the_game(fresh: Path) -> None:
    with pytest.raises(EnvironmentFault, match=r"the game kitchen 7 cannot be translated into a planning task: "):
        planning_task(DOMAIN, "(define (problem p)", "kitchen 7")


def test_a_translation_that_hangs_is_given_up(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(translation, "LIMIT_S", 0.01)
    with pytest.raises(EnvironmentFault, match=r"translating the game kitchen 7 took longer than 0\.01 s"):
        planning_task(DOMAIN, PROBLEM, "kitchen 7")
