"""Successes of each task, by their ids in the episode log: what can be injected into a later group."""

from __future__ import annotations

from collections.abc import Sequence

from agentkit.errors import RecordError
from agentkit.memory.gate import admit_episode
from agentkit.memory.log import EpisodeLog
from agentkit.memory.records import Episode
from agentkit.training.plans.plan import State


def remember(state: State, episodes: Sequence[Episode], capacity: int, least_return: float) -> None:
    """Add the sound successes with a return above `least_return` to their tasks; a full task loses its oldest.

    Args:
        state: `{"successes": {task key: [ids, oldest first]}}`, changed in place.
        episodes: As they were played, with token ids; they are in the log.
        capacity: Most successes kept of a task.
        least_return: Undiscounted return that a success has to exceed.
    """
    stored = state.setdefault("successes", {})
    for episode in episodes:
        worth = episode.success and episode.episode_return > least_return
        if worth and all(turn.response_ids for turn in episode.turns) and admit_episode(episode).status == "active":
            ids = [id for id in stored.get(episode.task.key, []) if id != episode.id]
            stored[episode.task.key] = [*ids, episode.id][-capacity:]


def stored_ids(state: State, key: str) -> list[str]:
    """Ids of the successes of a task, oldest first."""
    return list(state.get("successes", {}).get(key, []))


def read(log: EpisodeLog, id: str) -> Episode:
    """The episode; `RecordError` if the log does not have it."""
    episode = log.get(id)
    if episode is None:
        raise RecordError(
            f"episode {id} is to be injected and not in the log {log.location!r}; checkpoints and log belong to one "
            "run folder: restore them together"
        )
    return episode
