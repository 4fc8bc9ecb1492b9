"""Passages: of a long episode, the turns that are about the present situation instead of a text about them all.

Recall at two levels, as in hierarchical chunk attention memory (Lampinen et al. 2021): the episode is found by the
keys of its memory; then its turns, in chunks, by what was seen in them. There the keys are learnt; here they are words.
"""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from typing import NamedTuple

from agentkit.memory.case import clip
from agentkit.memory.kinds import EpisodeBody, Memory
from agentkit.memory.lexical import words_of
from agentkit.memory.log import EpisodeLog
from agentkit.memory.records import Episode, Turn

_SEEN_LIMIT, _DONE_LIMIT = 600, 200  # characters shown of an observation and an action
_COMPARED = 4_000  # characters of an observation whose words count
_KEPT = 64  # episodes kept in memory


class Passage(NamedTuple):
    """Turns `first` to `last` of an episode, from 0, both included."""

    first: int
    last: int
    text: str
    """What a policy is shown."""


class _Cut(NamedTuple):
    episode: Episode
    words: list[set[str]]
    """Words seen in each chunk."""


class Passages:
    """Picks the passage of an episode that a situation is about; one thread at a time.

    Args:
        log: Has the episodes the memories were made from.
        num_turns: Turns of a passage. Episodes of at most twice as many are shown whole.
    """

    def __init__(self, log: EpisodeLog, num_turns: int = 8) -> None:
        self._log = log
        self._num_turns = num_turns
        self._cut: OrderedDict[str, _Cut | None] = OrderedDict()

    def of(self, memory: Memory, observation: str, state_key: str = "") -> Passage | None:
        """The passage of the memory's episode that is about a situation, or None if its own text should be shown.

        A passage that begins with the last visit to the very state, or to what looks the same, if there was one; else
        the chunk in which most of the observation's words were seen, each counting log((1 + C) / (1 + c)) if it was
        seen in c of the C chunks, so that what is seen everywhere decides nothing; of equal chunks the first.
        None for what is no long episode, is not in the log, or has nothing to do with the situation.
        """
        if not isinstance(memory.body, EpisodeBody) or not memory.episode_id:
            return None
        cut = self._read(memory.episode_id)
        if cut is None:
            return None
        turns = cut.episode.turns
        same = [
            number
            for number, turn in enumerate(turns)
            if (state_key and turn.state_key == state_key) or (observation and turn.observation == observation)
        ]
        first = same[-1] if same else self._best(cut, observation)
        return None if first is None else self._passage(cut.episode, first)

    def _read(self, episode_id: str) -> _Cut | None:
        if episode_id not in self._cut:
            episode = self._log.get(episode_id)
            long = episode is not None and len(episode.turns) > 2 * self._num_turns
            self._cut[episode_id] = _Cut(episode, self._words(episode.turns)) if episode is not None and long else None
            if len(self._cut) > _KEPT:
                self._cut.popitem(last=False)
        self._cut.move_to_end(episode_id)
        return self._cut[episode_id]

    def _words(self, turns: tuple[Turn, ...]) -> list[set[str]]:
        chunks = [turns[start : start + self._num_turns] for start in range(0, len(turns), self._num_turns)]
        return [{word for turn in chunk for word in words_of(turn.observation[:_COMPARED])} for chunk in chunks]

    def _best(self, cut: _Cut, observation: str) -> int | None:
        """First turn of the best chunk."""
        wanted = set(words_of(observation[:_COMPARED]))
        num_of = Counter(word for words in cut.words for word in sorted(wanted & words))
        worth = {word: math.log((1 + len(cut.words)) / (1 + num)) for word, num in num_of.items()}
        values = [round(sum(worth[word] for word in sorted(wanted & words)), 9) for words in cut.words]
        best = max(range(len(values)), key=lambda chunk: values[chunk])
        return best * self._num_turns if values[best] > 0 else None

    def _passage(self, episode: Episode, first: int) -> Passage:
        last = min(first + self._num_turns, len(episode.turns)) - 1
        outcome = "success" if episode.success else "failure"
        lines = [f"Turns {first + 1} to {last + 1} of {len(episode.turns)} of an episode that ended in {outcome}."]
        for number in range(first, last + 1):
            turn = episode.turns[number]
            lines.append(f"Seen: {clip(turn.observation, _SEEN_LIMIT)}")
            lines.append(
                f"{number + 1}. {'(no valid action)' if turn.action is None else clip(turn.action, _DONE_LIMIT)}"
            )
        return Passage(first, last, "\n".join(lines))
