"""Successes of each task, by their ids in the episode log: what can be injected into a later group."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from agentkit.errors import RecordError
from agentkit.memory.gate import admit_episode
from agentkit.memory.log import EpisodeLog
from agentkit.memory.records import Episode
from agentkit.training.plans.plan import Ground, State


def remember(
    state: State, episodes: Sequence[Episode], capacity: int, least_return: float, quarantined: Collection[str] = ()
) -> None:
    """Add the sound successes with a return above `least_return` to their tasks; a full task loses its oldest.

    Args:
        state: `{"successes": {task key: [ids, oldest first]}}`, changed in place.
        episodes: As they were played, with token ids; they are in the log.
        capacity: Most successes kept of a task.
        least_return: Undiscounted return that a success has to exceed.
        quarantined: Ids of the memories in quarantine; what was shown one of them is not kept.
    """
    stored = state.setdefault("successes", {})
    for episode in episodes:
        worth = episode.success and episode.episode_return > least_return
        if worth and all(turn.response_ids for turn in episode.turns) and _is_sound(episode, quarantined):
            ids = [id for id in stored.get(episode.task.key, []) if id != episode.id]
            stored[episode.task.key] = [*ids, episode.id][-capacity:]


def stored_ids(ground: Ground, state: State, key: str) -> list[str]:
    """Ids of the successes of a task, oldest first, without those that were shown what is in quarantine by now."""
    ids = list(state.get("successes", {}).get(key, []))
    if not ground.quarantined:
        return ids
    return [id for id in ids if _is_sound(read(ground.log, id), ground.quarantined)]


def _is_sound(episode: Episode, quarantined: Collection[str]) -> bool:
    return admit_episode(episode, quarantined=quarantined).status == "active"


def read(log: EpisodeLog, id: str) -> Episode:
    """The episode; `RecordError` if the log does not have it."""
    episode = log.get(id)
    if episode is None:
        raise RecordError(
            f"episode {id} is to be injected and not in the log {log.location!r}; checkpoints and log belong to one "
            "run folder: restore them together"
        )
    return episode
