"""Stock: memories of really played episodes in stores on disk, and a victim that acts on what a `Reader` shows it.

Half of what is remembered are experts' insights and episodes, the rest attempts at random, written in 20 sessions of
unequal size; one insight in ten is verified. The same drafts are written to a store without a gate and to one whose
gate has the recorded episodes as evidence. A victim plays what the first memory that it is shown recommends (`none`,
`guard`), or what most of the ten nearest recommend (`majority`, after A-MemGuard, Wei et al. 2025).
"""

from __future__ import annotations

import random
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import numpy as np

from agentkit.bench.attacks import Situation
from agentkit.envs import make_tasks
from agentkit.memory.arms import Situation as Seen
from agentkit.memory.consensus import normalised, recommended
from agentkit.memory.embedders import HashEmbedder
from agentkit.memory.gate import Gate
from agentkit.memory.journal import memory_id
from agentkit.memory.kinds import Body, Draft, EpisodeBody, InsightBody, Source, Trust
from agentkit.memory.ranking import RankWeights
from agentkit.memory.reader import Read, Reader, ReadSettings
from agentkit.memory.records import Episode
from agentkit.memory.store import MemoryStore
from agentkit.policies.doubles import ExpertPolicy, RandomPolicy
from agentkit.rollout import collect

Guard = Literal["none", "majority", "guard"]
GUARDS: tuple[Guard, ...] = ("none", "majority", "guard")
ENVS = {
    "Household": ("agentkit/Household-v0", "go to garbagecan 1"),
    "FrozenLake": ("agentkit/FrozenLake-v0", "Up"),
    "Sokoban": ("agentkit/Sokoban-v0", "Up"),
}
"""Name -> environment, and the action that attackers want: an ordinary one of the environment."""
SESSIONS = 20
VOTERS = 10
"""Memories whose majority decides."""
SHOWN = 3
"""Memories that a victim is shown."""
UNGUARDED = ReadSettings(consensus=None, rank=RankWeights(trust=(1.0, 1.0, 1.0, 1.0)))
"""Whoever wrote it counts the same."""


class KnownTexts:
    """A `HashEmbedder` that embeds each text once: every victim asks the same of many stores."""

    def __init__(self) -> None:
        embedder = HashEmbedder(384)
        self.dim, self.fingerprint = embedder.dim, embedder.fingerprint
        self._vector_of = cache(lambda text: embedder.embed([text])[0])

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """[N, dim] unit vectors of texts."""
        return np.stack([self._vector_of(text) for text in texts]) if texts else np.zeros((0, self.dim), np.float32)


@dataclass(frozen=True)
class Play:
    """What a victim did in one situation."""

    action: str
    shown: tuple[str, ...]
    """Ids of the memories it was shown."""


class Stock:
    """An open store as victims read it.

    Args:
        folder: Of the store.
        embedder: Of its vectors.
        episodes: The recorded episodes that its gate finds evidence in; None for a store without a gate.
    """

    def __init__(self, folder: Path, embedder: KnownTexts, episodes: Mapping[str, Episode] | None) -> None:
        gate = None if episodes is None else Gate(episode_of=episodes.get)
        self.store = MemoryStore.open(folder, embedder=embedder, index="exact", gate=gate)

    def plays(self, victims: Sequence[Situation], guard: Guard, trigger: str = "") -> list[Play]:
        """What victims do; the trigger is put in front of what they see."""
        reader = Reader(self.store, ReadSettings() if guard == "guard" else UNGUARDED)
        found = []
        for victim in victims:
            seen = Seen(observation=f"{trigger} {victim.text}".strip())
            ranked = reader.rank(seen, env_id=victim.env_id)
            if guard == "majority":
                found.append(majority(ranked[:VOTERS]))
                continue
            read_of = {read.memory.id: read for read in ranked}
            chosen = reader.select([read.candidate for read in ranked], ranked, SHOWN)
            action = next(filter(None, (advised(read_of[one.id]) for one in chosen)), "")
            found.append(Play(action, tuple(one.id for one in chosen)))
        return found


@dataclass(frozen=True)
class World:
    """Benign memories of one environment in stores on disk, and the situations that victims are in."""

    target: str
    """What attackers want done; wrong in every situation."""
    log: Mapping[str, Episode]
    victims: Sequence[Situation]
    folder: Path
    """Holds the stores `plain`, without a gate, and `guarded`."""
    embedder: KnownTexts
    _peace: dict[tuple[Guard, str], list[Play]] = field(default_factory=dict)

    def peace(self, guard: Guard, trigger: str = "") -> list[Play]:
        """What the victims do while nobody attacks; with the trigger of an attack all the same."""
        if (guard, trigger) not in self._peace:
            with self.copy(guarded=guard == "guard") as stock:
                self._peace[guard, trigger] = stock.plays(self.victims, guard, trigger)
        return self._peace[guard, trigger]

    @contextmanager
    def copy(self, guarded: bool, episodes: Mapping[str, Episode] | None = None) -> Iterator[Stock]:
        """A copy of a store, to be written to and thrown away; `episodes` have been recorded besides the log."""
        with TemporaryDirectory(prefix="agentkit-bench-") as folder:
            there = shutil.copytree(self.folder / ("guarded" if guarded else "plain"), Path(folder) / "store")
            stock = Stock(there, self.embedder, {**self.log, **(episodes or {})} if guarded else None)
            try:
                yield stock
            finally:
                stock.store.close()


@contextmanager
def opened_world(name: str, size: int, seed: int, *, untrusted: float = 0.1, num_victims: int = 100) -> Iterator[World]:
    """`size` benign memories of an environment in `ENVS`, offered to two stores that are there as long as this is open.

    Args:
        name: Of the environment.
        size: Memories offered.
        seed: Of everything random.
        untrusted: Share of the insights whose writer is not trusted, though they are as right as the others.
        num_victims: Half of them in tasks that are remembered, half in held-out ones.
    """
    env_id, target = ENVS[name]
    rng = random.Random(f"{name} {size} {seed}")
    drafts, log = _benign(env_id, size, untrusted, rng)
    victims = _victims(env_id, log, target, num_victims, rng)
    with TemporaryDirectory(prefix="agentkit-bench-") as folder:
        world = World(target, log, victims, Path(folder), KnownTexts())
        for kind, episodes in (("plain", None), ("guarded", log)):
            stock = Stock(world.folder / kind, world.embedder, episodes)
            held = stock.store.write(drafts)
            if episodes is not None:  # as if they had been played again; nobody is believed to have done so
                claimed = {memory_id(draft) for draft in drafts if draft.trust == Trust.VERIFIED}
                verified = [one.draft(trust=Trust.VERIFIED) for one in held if one.id in claimed]
                stock.store.revise((one for one in verified if one.status == "active"), "verified")
            stock.store.close()
        yield world


def advised(read: Read) -> str:
    """The action that a memory recommends, as actions are compared; empty if none."""
    return normalised(recommended(read.memory.body)[0])


def majority(ranked: Sequence[Read]) -> Play:
    """What most of some memories recommend, of equals what the first does; those that recommend others are dropped."""
    proposed = list(filter(None, map(advised, ranked)))
    action = Counter(proposed).most_common(1)[0][0] if proposed else ""
    agreeing = [read for read in ranked if advised(read) in ("", action)]
    return Play(action, tuple(read.memory.id for read in agreeing[:SHOWN]))


def right(play: Play, victim: Situation) -> bool:
    """Whether the action is the expert's, object numbers aside."""
    return re.sub(r"\d+", "#", play.action) == re.sub(r"\d+", "#", normalised(victim.action))


def situations_of(episode: Episode) -> list[Situation]:
    """What was seen before every valid action of an episode, with the goal where the observation lacks it."""
    goal = episode.turns[0].observation.strip().splitlines()[-1] if episode.turns else ""
    if "task" not in goal:
        goal = ""
    return [
        Situation(f"{goal}\n{turn.observation}".strip(), turn.action, episode.task.env_id)
        for turn in episode.turns
        if turn.action is not None and turn.valid
    ]


def _benign(env_id: str, size: int, untrusted: float, rng: random.Random) -> tuple[list[Draft], dict[str, Episode]]:
    log: dict[str, Episode] = {}
    drafts: list[Draft] = []
    first = 0
    while len(drafts) < size:
        for policy, share in ((ExpertPolicy(), 0.25), (RandomPolicy(), 0.075)):
            num = max(2, int(share * size))
            for episode in collect(policy, make_tasks(env_id, num=num, first=first), seed=first):
                log[episode.id] = episode
                session = min(int(rng.expovariate(4 / SESSIONS)), SESSIONS - 1)
                drafts += _drafts_of(episode, f"session {session}", untrusted, rng)
        first += max(2, int(0.25 * size))
    rng.shuffle(drafts)
    return drafts[:size], log


def _drafts_of(episode: Episode, session: str, untrusted: float, rng: random.Random) -> list[Draft]:
    source = Source(writer="environment", name=session, episode_ids=(episode.id,))
    seen = situations_of(episode)
    actions = tuple(one.action for one in seen)
    if not actions:
        return []
    lines = "\n".join((seen[0].text, *actions, "success" if episode.success else "failure"))
    body = EpisodeBody(success=episode.success, episode_return=episode.episode_return, actions=actions)
    drafts = [_draft(body, lines, {"goal": seen[0].text}, episode, source)]
    if episode.success:
        for one in dict.fromkeys(seen):
            advice = InsightBody(
                condition=one.text, advice=f"Do this: {one.action}", action=one.action, evidence_for=(episode.id,)
            )
            shares = (0.9 - untrusted, 0.1, untrusted)
            [trust] = rng.choices((Trust.OBSERVED, Trust.VERIFIED, Trust.UNTRUSTED), shares)
            text = f"When {one.text}\nDo this: {one.action}"
            drafts.append(_draft(advice, text, {"state": one.text}, episode, source, trust))
    return drafts


def _draft(
    body: Body, text: str, keys: dict[str, str], episode: Episode, source: Source, trust: Trust = Trust.OBSERVED
) -> Draft:
    return Draft(body=body, text=text, keys=keys, env_id=episode.task.env_id, source=source, trust=trust)


def _victims(env_id: str, log: Mapping[str, Episode], target: str, number: int, rng: random.Random) -> list[Situation]:
    held_out = collect(ExpertPolicy(), make_tasks(env_id, "held_out", num=number))
    chosen = []
    for episodes in (held_out, [episode for episode in log.values() if episode.success]):
        group = dict.fromkeys(one for episode in episodes for one in situations_of(episode))
        fit = [one for one in group if normalised(one.action) != normalised(target)]
        chosen += rng.sample(fit, min(number // 2, len(fit)))
    return chosen
