from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from agentkit.errors import ConfigError
from agentkit.memory.exposure import Candidate, Exploration, Exposure, Outcome, environment_outcomes, uniform
from agentkit.memory.records import Episode

RANKED = [("a", 0.9), ("b", 0.8), ("c", 0.7), ("d", 0.6)]
DRAWS = 10_000


def shares(exploration: Exploration, places: int, chances: dict[str, float] | None = None) -> dict[str, float]:
    """How often each memory is shown."""
    shown = dict.fromkeys([memory_id for memory_id, _ in RANKED], 0)
    for number in range(DRAWS):
        for memory_id in exploration.draw(f"e{number}", RANKED, places, chances=chances).shown_ids:
            shown[memory_id] += 1
    return {memory_id: number / DRAWS for memory_id, number in shown.items()}


def test_the_same_names_give_the_same_draw_in_another_process() -> None:
    code = (
        "from agentkit.memory.exposure import Exploration; "
        f"print(Exploration(seed=3, dropout=0.5).draw('e', {RANKED!r}, 3, recall=2).model_dump_json())"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert other == Exploration(seed=3, dropout=0.5).draw("e", RANKED, 3, recall=2).model_dump_json()


def test_another_seed_and_another_episode_give_other_draws() -> None:
    def coins(seed: int, prefix: str) -> list[tuple[str, ...]]:
        return [Exploration(seed=seed, dropout=0.5).draw(f"{prefix}{n}", RANKED, 3).shown_ids for n in range(20)]

    assert coins(0, "e") != coins(1, "e")
    assert coins(0, "e") != coins(0, "f")


def test_a_memory_is_shown_as_often_as_its_propensity_says() -> None:
    exploration = Exploration(holdout=0.2, dropout=0.3)
    (logged,) = {tuple(c.propensity for c in e.candidates) for e in [drawn(exploration)] if not e.held_out}
    assert logged == (0.7, 0.7, 0.0, 0.0)
    found = shares(exploration, places=2)
    assert found["a"] == pytest.approx(0.8 * 0.7, abs=0.018)
    assert found["b"] == pytest.approx(0.8 * 0.7, abs=0.018)
    assert found["c"] == found["d"] == 0.0


def drawn(exploration: Exploration, places: int = 2, chances: dict[str, float] | None = None) -> Exposure:
    """The first draw that is not held out."""
    draws = (exploration.draw(f"x{number}", RANKED, places, chances=chances) for number in range(1000))
    return next(exposure for exposure in draws if not exposure.held_out)


def test_coins_of_memories_are_independent() -> None:
    exploration = Exploration(holdout=0.0, dropout=0.4)
    both = sum(len(exploration.draw(f"e{n}", RANKED, 2).shown_ids) == 2 for n in range(DRAWS)) / DRAWS
    assert both == pytest.approx(0.6 * 0.6, abs=0.018)


def test_a_dropped_memory_stays_dropped_in_every_recall_of_its_episode() -> None:
    exploration = Exploration(dropout=0.5, holdout=0.3)
    for number in range(50):
        recalls = [exploration.draw(f"e{number}", RANKED[turn:], 1, recall=turn) for turn in (0, 0)]
        later = exploration.draw(f"e{number}", [("z", 1.0), RANKED[0]], 2, recall=7)
        assert recalls[0].shown_ids == recalls[1].shown_ids
        assert ("a" in later.shown_ids) == ("a" in recalls[0].shown_ids)
        assert later.held_out == recalls[0].held_out
        assert later.id != recalls[0].id


def test_an_episode_that_is_held_out_shows_nothing_and_tosses_no_coin() -> None:
    exploration = Exploration(holdout=0.25)
    draws = [exploration.draw(f"e{number}", RANKED, 3) for number in range(4000)]
    held_out = [exposure for exposure in draws if exposure.held_out]
    assert len(held_out) / 4000 == pytest.approx(0.25, abs=0.025)
    assert all(not e.shown_ids and not any(c.propensity for c in e.candidates) for e in held_out)


def test_thompson_sampling_shows_by_the_chance_that_a_memory_helps_and_leaves_none_unmeasured() -> None:
    chances = {"a": 0.001, "b": 0.999, "c": 0.7}  # d is unknown: one half
    exploration = Exploration(holdout=0.0, dropout=0.1)
    logged = drawn(exploration, 4, chances)
    assert [c.memory_id for c in logged.candidates] == ["b", "c", "d", "a"]
    assert [c.propensity for c in logged.candidates] == [0.9, 0.7, 0.5, 0.1]
    found = shares(exploration, 4, chances)
    assert found == pytest.approx({"a": 0.1, "b": 0.9, "c": 0.7, "d": 0.5}, abs=0.018)


def test_under_thompson_sampling_a_free_place_goes_to_the_next_and_its_propensity_knows() -> None:
    exploration = Exploration(holdout=0.0, dropout=0.1)
    for number in range(200):
        exposure = exploration.draw(f"e{number}", RANKED, 1, chances={"a": 0.6, "b": 0.5})
        first, second = exposure.candidates[:2]
        assert second.propensity == (0.0 if first.shown else 0.5)
    # shown: 0.6, then 0.4 * 0.5, then 0.4 * 0.5 * 0.5, then 0.4 * 0.5 * 0.5 * 0.5
    found = shares(exploration, 1, {"a": 0.6, "b": 0.5})
    assert found == pytest.approx({"a": 0.6, "b": 0.2, "c": 0.1, "d": 0.05}, abs=0.018)


@settings(max_examples=100, deadline=None)
@given(
    ids=st.lists(st.text(min_size=1, max_size=5), unique=True, max_size=8),
    places=st.integers(0, 9),
    dropout=st.floats(0.0, 0.5),
    chances=st.one_of(st.none(), st.dictionaries(st.text(min_size=1, max_size=5), st.floats(0.0, 1.0))),
    episode=st.text(max_size=5),
)
def test_every_draw_fits_its_places_and_names_every_candidate(
    ids: list[str], places: int, dropout: float, chances: dict[str, float] | None, episode: str
) -> None:
    exposure = Exploration(dropout=dropout).draw(episode, [(i, 1.0) for i in ids], places, chances=chances)
    assert sorted(c.memory_id for c in exposure.candidates) == sorted(ids)
    assert len(exposure.shown_ids) <= places
    assert [c.position for c in exposure.candidates if c.shown] == list(range(len(exposure.shown_ids)))
    assert all(c.propensity == 0 or dropout <= c.propensity <= 1 - dropout for c in exposure.candidates)
    assert Exposure.model_validate_json(exposure.model_dump_json()) == exposure


def test_a_draw_that_makes_no_sense_says_what_to_give() -> None:
    with pytest.raises(ConfigError, match=r"chance of memory 'a' is 1\.5"):
        Exploration().draw("e", RANKED, 2, chances={"a": 1.5})
    with pytest.raises(ConfigError, match="rank each once"):
        Exploration().draw("e", [("a", 1.0), ("a", 0.5)], 2)
    with pytest.raises(ConfigError, match="-1 places"):
        Exploration().draw("e", RANKED, -1)
    with pytest.raises(ValidationError, match="dropout"):
        Exploration(dropout=0.6)


def test_a_record_that_contradicts_itself_is_refused() -> None:
    good = Candidate(memory_id="a", score=1.0, propensity=0.5, shown=True, position=0)
    with pytest.raises(ValidationError, match="if and only if it was shown"):
        Candidate(memory_id="a", score=1.0, propensity=0.5, shown=True)
    with pytest.raises(ValidationError, match="shown with propensity 0"):
        Candidate(memory_id="a", score=1.0, propensity=0.0, shown=True, position=0)
    with pytest.raises(ValidationError, match="not shown with propensity 1"):
        Candidate(memory_id="a", score=1.0, propensity=1.0, shown=False)
    with pytest.raises(ValidationError, match="names a memory twice"):
        Exposure(id="x", episode_key="e", candidates=(good, good))
    with pytest.raises(ValidationError, match="every propensity must be 0"):
        Exposure(id="x", episode_key="e", held_out=True, candidates=(good,))
    with pytest.raises(ValidationError, match="value"):
        Outcome(value=1.5)


def test_outcomes_of_episodes_go_by_group_and_attempt_and_count_a_broken_one_as_failed(
    make_episode: Callable[..., Episode],
) -> None:
    grouped = make_episode("one", group_id="g").model_copy(update={"attempt": 2})
    broken = make_episode("two", success=False, error="the page hung")
    assert environment_outcomes([grouped, broken]) == {"g/2": Outcome(value=1.0), "two": Outcome(value=0.0)}


def test_young_memories_get_a_fair_coin_until_they_have_had_enough() -> None:
    exploration = Exploration(holdout=0.0, dropout=0.1, young=50)
    coins = {"old": 50, "young": 49}
    exposure = exploration.draw("e", [("old", 1.0), ("young", 0.9), ("new", 0.8)], 3, num_coins=coins)
    assert [candidate.propensity for candidate in exposure.candidates] == [0.9, 0.5, 0.5]
    plain = exploration.draw("e", [("old", 1.0), ("young", 0.9), ("new", 0.8)], 3)
    assert {candidate.propensity for candidate in plain.candidates} == {0.9}
    with pytest.raises(ConfigError, match="give one of them"):
        exploration.draw("e", [("old", 1.0)], 1, num_coins=coins, chances={})


def test_ids_that_utf8_cannot_carry_have_coins_of_their_own() -> None:
    assert uniform(0, "a\ud800") != uniform(0, "a\ud801")
    assert 0 <= uniform("\udfff") < 1
