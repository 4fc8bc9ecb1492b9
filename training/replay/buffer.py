"""ReplayBuffer: past episodes to learn from again, on disk, restored exactly.

It keeps names and numbers only; the episodes themselves stand in the episode log. From its `Storage` the buffer of the
end of any iteration can be read again, whatever was written after it.
"""

from __future__ import annotations

import dataclasses
import heapq
import warnings
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path

import numpy as np

from agentkit.errors import RecordError
from agentkit.memory.gate import admit_episode
from agentkit.memory.log import EpisodeLog
from agentkit.memory.records import Episode
from agentkit.training.replay.entry import Entry
from agentkit.training.replay.selection import Candidates, Floats, Priority
from agentkit.training.replay.settings import BufferConfig
from agentkit.training.replay.storage import Storage
from agentkit.training.replay.sum_tree import SumTree
from agentkit.training.rows import Row, build_rows

EntropyOf = Callable[[Sequence[Entry]], Floats]
"""[M] mean token entropy of entries under the policy as it is now."""


class ReplayBuffer:
    """Past episodes, for learning from them again.

    Args:
        path: SQLite file; created if missing.
        log: Where the episodes are.
        config: Admission, staleness, capacity, and how entries are chosen.
    """

    def __init__(self, path: str | Path, log: EpisodeLog, config: BufferConfig) -> None:
        self.path = Path(path)
        self.log = log
        self._config = config
        self._storage = Storage(self.path)
        self._next = 1
        self._rows: dict[str, list[Row]] = {}
        self._warned = False
        self._load()

    def _forget(self) -> None:
        self._entries: OrderedDict[int, Entry] = OrderedDict()
        self._at_slot: dict[int, Entry] = {}
        self._of_task: defaultdict[str, OrderedDict[int, Entry]] = defaultdict(OrderedDict)
        self._of_version: defaultdict[int, set[int]] = defaultdict(set)
        self._priorities: dict[int, float] = {}
        self._free: list[int] = []
        self._num_slots = 0
        self._tree: SumTree | None = None
        self._refreshed: set[int] = set()
        self._barred: set[str] = set()
        self._left: list[int] = []
        self._all: tuple[tuple[Entry, ...], Candidates] | None = None  # all entries, until one changes

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def entries(self) -> tuple[Entry, ...]:
        """The entries in order of admission."""
        return tuple(self._entries.values())

    @property
    def config(self) -> BufferConfig:
        """Admission, staleness, capacity, and how entries are chosen."""
        return self._config

    @config.setter
    def config(self, config: BufferConfig) -> None:
        if not config.select.draws_like(self._config.select):
            self._tree = None
        self._config = config

    def update(
        self,
        episodes: Sequence[Episode],
        advantages: Sequence[float],
        *,
        iteration: int,
        version: int,
        returns: Sequence[float] | None = None,
        turn_advantages: Sequence[tuple[float, ...]] | None = None,
        quarantined: Collection[str] = (),
    ) -> int:
        """Admit what is worth it and drop what is stale or too much; returns how many were admitted.

        An episode without any sampled token has nothing to teach. One whose record is doubtful, or that was shown a
        memory in quarantine, is left out too; the first time, a `RuntimeWarning` says why. Entries that were shown a
        memory which is in quarantine by now leave.

        Args:
            episodes: The iteration's episodes, already in the log.
            advantages: R − mean of the group, one each.
            iteration: When; the buffer can be restored to the end of any iteration.
            version: Optimizer steps so far, against which staleness is counted.
            returns: R, penalties included, one each; None for the sums of the recorded rewards.
            turn_advantages: What the estimator gave each turn, or nothing; None for nothing.
            quarantined: Ids of the memories in quarantine.
        """
        returns = [episode.episode_return for episode in episodes] if returns is None else returns
        turn_advantages = [()] * len(episodes) if turn_advantages is None else turn_advantages
        drafts = [
            _draft(episode, float(advantage), float(total), of_turns)
            for episode, advantage, total, of_turns in zip(episodes, advantages, returns, turn_advantages, strict=True)
            if any(turn.logprobs for turn in episode.turns)
            and self._is_wanted(episode, float(advantage))
            and self._is_sound(episode, quarantined)
        ]
        self._bar(quarantined)
        fresh = self._admit(drafts)
        self._expire(version)
        alive = sorted(number for number in self._refreshed if number in self._entries)
        try:
            self._storage.write(iteration, fresh, self._left, {n: self._priorities[n] for n in alive})
        except RecordError:
            self._load()  # as it was before: nothing has been written
            raise
        self._refreshed.clear()
        self._left.clear()
        return len(fresh)

    def _is_wanted(self, episode: Episode, advantage: float) -> bool:
        admit, bar = self._config.admit, self._config.admit_above
        if admit in {"success", "better"}:
            return advantage > bar and (episode.success or admit == "better")
        return admit == "any" or abs(advantage) > bar

    def _is_sound(self, episode: Episode, quarantined: Collection[str]) -> bool:
        verdict = admit_episode(episode, quarantined=quarantined)
        if verdict.status != "active" and not self._warned:
            self._warned = True
            why = "; ".join(verdict.reasons)
            message = f"episode {episode.id} is not replayed: {why}; further ones are left out without a warning"
            warnings.warn(message, RuntimeWarning, stacklevel=3)
        return verdict.status == "active"

    def _admit(self, drafts: Iterable[Entry]) -> list[Entry]:
        """Take these in; what is too much leaves."""
        fresh: list[Entry] = []
        top = self._top_priority() if isinstance(self._config.select, Priority) else None
        for draft in drafts:
            slot = heapq.heappop(self._free) if self._free else self._num_slots
            entry = dataclasses.replace(draft, number=self._next, slot=slot)
            self._next += 1
            fresh.append(entry)
            if top is not None:
                self._priorities[entry.number] = top
                self._refreshed.add(entry.number)
            self._take_in(entry)
            of_task = self._of_task[entry.task]
            if self._config.newest_group_only:
                for number in [number for number, other in of_task.items() if other.group != entry.group]:
                    self._drop(number)
            if self._config.per_task is not None and len(of_task) > self._config.per_task:
                self._drop(next(iter(of_task)))
            if len(self._entries) > self._config.capacity:
                self._drop(next(iter(self._entries)))
        return fresh

    def _bar(self, quarantined: Collection[str]) -> None:
        """Drop what was shown one of these memories; those already known are not looked for again."""
        newly = {*quarantined} - self._barred
        self._barred |= newly
        shown = (number for number in [*self._entries] if newly and self._is_shown(number, newly))
        for number in shown:
            self._drop(number)

    def _is_shown(self, number: int, memories: set[str]) -> bool:
        return any(memories.intersection(turn.memory_ids) for turn in self.episode(self._entries[number]).turns)

    def _expire(self, version: int) -> None:
        if self._config.max_staleness is None:
            return
        for old in [each for each in self._of_version if version - each > self._config.max_staleness]:
            for number in sorted(self._of_version[old]):
                self._drop(number)

    def _take_in(self, entry: Entry) -> None:
        self._entries[entry.number] = self._at_slot[entry.slot] = entry
        self._of_task[entry.task][entry.number] = entry
        self._of_version[entry.policy_version].add(entry.number)
        self._num_slots = max(self._num_slots, entry.slot + 1)
        self._all = None
        if self._tree is not None:
            self._tree[entry.slot] = self._mass(entry)

    def _drop(self, number: int) -> None:
        entry = self._entries.pop(number)
        del self._at_slot[entry.slot], self._of_task[entry.task][number]
        of_version = self._of_version[entry.policy_version]
        of_version.discard(number)
        if not of_version:
            del self._of_version[entry.policy_version]
        if not self._of_task[entry.task]:
            del self._of_task[entry.task]
        heapq.heappush(self._free, entry.slot)
        self._left.append(number)
        self._rows.pop(entry.episode_id, None)
        self._priorities.pop(number, None)
        self._all = None
        if self._tree is not None:
            self._tree[entry.slot] = 0.0

    def empty(self) -> None:
        """Let every entry leave; the next `update` writes it down."""
        for number in [*self._entries]:
            self._drop(number)

    def sample(
        self,
        num: int,
        rng: np.random.Generator,
        *,
        task: str | None = None,
        above: float = -np.inf,
        entropy_of: EntropyOf | None = None,
    ) -> list[Entry]:
        """Up to `num` different entries as `config.select` chooses them, in order of admission.

        Args:
            num: How many.
            rng: For all that is random.
            task: Key of the task they must be of.
            above: What their return must exceed.
            entropy_of: Asked by the selections that say `needs_entropy`.
        """
        entries: Sequence[Entry]
        if task is None and above == -np.inf:
            if self._config.select.is_drawn:
                drawn = [self._at_slot[slot] for slot in self._masses().draw(num, rng)]
                return sorted(drawn, key=lambda entry: entry.number)
            if self._all is None:
                self._all = self.entries, self._candidates(self.entries)
            entries, candidates = self._all
        else:
            known = self._entries if task is None else self._of_task.get(task, OrderedDict())
            entries = [entry for entry in known.values() if entry.episode_return > above]
            candidates = self._candidates(entries)
        if not entries:
            return []
        if self._config.select.needs_entropy:
            ask = entropy_of
            assert ask is not None, "this selection asks for entropies"
            candidates = candidates._replace(entropy_of=lambda places: ask([entries[place] for place in places]))
        return [entries[place] for place in sorted(self._config.select.pick(candidates, num, rng).tolist())]

    def importance(self, entries: Sequence[Entry]) -> Floats:
        """[M] weights that correct for the priorities by which these were drawn; ones under other selections."""
        rule = self._config.select
        if not isinstance(rule, Priority) or not entries:
            return np.ones(len(entries))
        tree = self._masses()
        return rule.importance(np.array([tree[entry.slot] for entry in entries]), tree.total, len(self))

    def refresh(self, entries: Sequence[Entry], priorities: Iterable[float]) -> None:
        """Give entries new priorities; the next `update` writes them down."""
        for entry, priority in zip(entries, priorities, strict=True):
            if entry.number in self._entries and self._priorities.get(entry.number) != priority:
                self._priorities[entry.number] = float(priority)
                self._refreshed.add(entry.number)
                self._all = None
                if self._tree is not None:
                    self._tree[entry.slot] = self._mass(entry)

    def num_of_task(self, task: str) -> int:
        """How many entries a task has."""
        return len(self._of_task.get(task, ()))

    def _top_priority(self) -> float:
        known = max(self._priorities.values(), default=0.0)
        return known if known > 0 and len(self._priorities) == len(self._entries) else max(known, 1.0)

    def _mass(self, entry: Entry) -> float:
        return float(self._config.select.masses(self._candidates([entry]))[0])

    def _masses(self) -> SumTree:
        """The tree, made on first use: only some selections draw from it."""
        if self._tree is None:
            leaves = np.zeros(self._num_slots)
            slots = [entry.slot for entry in self._entries.values()]
            leaves[slots] = self._config.select.masses(self._candidates(self.entries))
            self._tree = SumTree(leaves)
        return self._tree

    def _candidates(self, entries: Sequence[Entry]) -> Candidates:
        groups: dict[str, int] = {}
        return Candidates(
            advantage_M=np.array([entry.advantage for entry in entries], np.float64),
            return_M=np.array([entry.episode_return for entry in entries], np.float64),
            mean_logp_M=np.array([entry.mean_logp for entry in entries], np.float64),
            priority_M=np.array([self._priorities.get(entry.number, 1.0) for entry in entries], np.float64),
            group_M=np.array([groups.setdefault(entry.group, len(groups)) for entry in entries], np.int64),
            entropy_of=lambda places: np.zeros(len(places)),
        )

    def episode(self, entry: Entry) -> Episode:
        """The episode of an entry, from the log.

        Raises:
            RecordError: It is not there.
        """
        episode = self.log.get(entry.episode_id)
        if episode is None:
            raise RecordError(
                f"episode {entry.episode_id} of the replay buffer {str(self.path)!r} is not in the log "
                f"{self.log.location!r}; both belong to one run folder: restore them together"
            )
        return episode

    def rows(self, entry: Entry) -> list[Row]:
        """The training rows of an entry's episode, read from the log once."""
        if entry.episode_id not in self._rows:
            self._rows[entry.episode_id] = build_rows([self.episode(entry)])[0]
        return self._rows[entry.episode_id]

    def restore(self, iteration: int) -> None:
        """Put the buffer back to the end of `iteration`: what came later is gone, what left later is back."""
        self._storage.go_back(iteration)
        self._load()

    def close(self) -> None:
        """Close the file."""
        self._storage.close()

    def _load(self) -> None:
        stored = self._storage.read()
        self._forget()
        self._rows = {}
        self._next, self._priorities = stored.next, stored.priorities
        for entry in stored.entries:
            self._take_in(entry)
        self._free = sorted(set(range(self._num_slots)) - {entry.slot for entry in stored.entries})


def _draft(episode: Episode, advantage: float, total: float, turn_advantages: tuple[float, ...]) -> Entry:
    """The entry of an episode, without a number or a place yet."""
    sampled = sum(len(turn.logprobs) for turn in episode.turns)
    return Entry(
        number=0,
        episode_id=episode.id,
        advantage=advantage,
        policy_version=episode.policy_version,
        task=episode.task.key,
        group=episode.group_id,
        episode_return=total,
        mean_logp=sum(sum(turn.logprobs) for turn in episode.turns) / max(1, sampled),
        turn_advantages=turn_advantages,
    )
