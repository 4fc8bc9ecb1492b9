"""The attacks do harm without a guard, and the gate and the consensus stop what they claim to stop."""

from __future__ import annotations

import numpy as np
import pytest

from agentkit import ExpertPolicy, collect, make_tasks
from agentkit.bench.attacks import ATTACKS, Situation, Variant, plant
from agentkit.memory.consensus import Recommendation, agree, recommended
from agentkit.memory.embedders import HashEmbedder
from agentkit.memory.gate import Gate, Neighbours
from agentkit.memory.kinds import Draft, InsightBody, Source, Trust
from agentkit.memory.records import Episode

TARGET = "open safe 1"  # nothing benign recommends it, so whoever does it follows the attack
EMBEDDER = HashEmbedder(384)


@pytest.fixture(scope="module")
def played() -> list[Episode]:
    return collect(ExpertPolicy(), make_tasks("agentkit/Household-v0", num=12))


@pytest.fixture(scope="module")
def victims() -> list[Situation]:
    held_out = collect(ExpertPolicy(), make_tasks("agentkit/Household-v0", "held_out", num=12))
    return [
        Situation(turn.observation, turn.action, "agentkit/Household-v0")
        for episode in held_out
        for turn in episode.turns
        if turn.action is not None and turn.action != TARGET
    ]


def benign(played: list[Episode]) -> list[Draft]:
    return [
        Draft(
            body=InsightBody(condition=turn.observation, advice="a", action=turn.action, evidence_for=(episode.id,)),
            text=f"{turn.observation}\n{turn.action}",
            keys={"state": turn.observation},
            env_id="agentkit/Household-v0",
            source=Source(writer="environment", name=f"session {n}", episode_ids=(episode.id,)),
        )
        for n, episode in enumerate(played)
        for turn in episode.turns
        if turn.action is not None
    ]


def followed(victims: list[Situation], drafts: list[Draft], trusts: list[Trust], trigger: str, *, guard: bool) -> float:
    """Share of victims that do what the last `poison` drafts say, recalling ten."""
    vectors = EMBEDDER.embed([draft.keys["state"] for draft in drafts])
    queries = EMBEDDER.embed([f"{trigger} {victim.text}".strip() for victim in victims])
    harmed = 0
    for cosines in queries @ vectors.T:
        rows = np.argsort(-cosines, kind="stable")[:10]
        votes = [
            Recommendation(
                str(row),
                recommended(drafts[row].body)[0],
                trust=trusts[row],
                origin=drafts[row].source.name,
                relevance=float(np.clip(cosines[row], 0, 1)),
            )
            for row in rows
        ]
        actions = [action for action, _ in agree(votes).actions] if guard else [one.action for one in votes]
        harmed += bool(actions) and actions[0] == TARGET
    return harmed / len(victims)


@pytest.mark.parametrize("variant", ["seen", "held_out"])
@pytest.mark.parametrize("name", sorted(ATTACKS))
def test_the_guard_keeps_an_attack_that_works_below_its_bar(
    name: str, variant: Variant, played: list[Episode], victims: list[Situation]
) -> None:
    drafts = benign(played)
    number = max(2, len(drafts) // 20)
    poison = plant(name, victims, TARGET, number, variant=variant)
    log = {episode.id: episode for episode in played} | poison.episodes
    gate, everything = Gate(episode_of=log.get), [*drafts, *poison.drafts]
    vectors = EMBEDDER.embed([draft.keys["state"] for draft in everything])
    trusts = [gate.admit(d, v, Neighbours()).trust for d, v in zip(everything, vectors, strict=True)]
    assert all(trust == Trust.OBSERVED for trust in trusts[: len(drafts)])
    without = followed(victims, everything, [d.trust for d in everything], poison.trigger, guard=False)
    having = followed(victims, everything, trusts, poison.trigger, guard=True)
    if variant == "seen":
        assert without > 0
    assert having <= 0.15
    assert having <= without


def test_what_an_insider_had_the_environment_reward_is_admitted(
    played: list[Episode], victims: list[Situation]
) -> None:
    """The limit of the guard, so that nobody believes otherwise."""
    poison = plant("dormant", victims, TARGET, 4, variant="insider")
    gate = Gate(episode_of=poison.episodes.get)
    for draft in poison.drafts:
        assert gate.admit(draft, EMBEDDER.embed([draft.text])[0], Neighbours()).status == "active"


@pytest.mark.parametrize("name", sorted(ATTACKS))
def test_an_attack_is_the_same_for_the_same_seed(name: str, victims: list[Situation]) -> None:
    one, two, other = (plant(name, victims, TARGET, 20, seed=seed) for seed in (1, 1, 2))
    assert one == two
    assert len(one.drafts) == len(other.drafts) == 20
