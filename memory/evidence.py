"""Whether the episodes that a memory names bear out what it claims; an episode is what the environment has said.

A claim is cheap, a recorded episode is not: success without a played success, or success that was only reached while
the same advice was shown, is no evidence.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence

from agentkit.memory.case import ACTION_LIMIT, clip, printable
from agentkit.memory.consensus import normalised, recommended
from agentkit.memory.kinds import Body, Draft, EpisodeBody, FailureBody, InsightBody, SkillBody, StepBody
from agentkit.memory.records import Episode

EpisodeOf = Callable[[str], Episode | None]
"""The recorded episode of an id, or None if there is none."""
BodyOf = Callable[[str], Body | None]
"""What the memory of an id says, or None if there is none."""
_SLOT = re.compile(r"\{\w+\}")


def lack_of_evidence(draft: Draft, episode_of: EpisodeOf, body_of: BodyOf | None = None) -> str | None:
    """Why the recorded episodes do not bear `draft` out, or None if they do.

    One episode that bears it out suffices, except that it must not have been played while a memory that the draft
    was made from was shown: a memory is no evidence for itself. Nor, if `body_of` can tell, must its actions have
    been played because a memory that was shown advised them: what is repeated for being remembered grows no truer.
    """
    ids = dict.fromkeys((*draft.source.episode_ids, *getattr(draft.body, "evidence_for", ())))
    if isinstance(draft.body, InsightBody) and not draft.body.action:
        ids.update(dict.fromkeys(draft.body.evidence_against))
    if not ids:
        return "it names no episode"
    episodes = [episode for id in ids if (episode := episode_of(id)) is not None]
    if not episodes:
        return f"none of the {len(ids)} episodes it names is recorded"
    sound = [episode for episode in episodes if not doubts_about(episode)]
    if not sound:
        return f"the record of the episode it rests on is doubtful: {doubts_about(episodes[0])[0]}"
    agreeing = [episode for episode in sound if _bears_out(episode, draft.body)]
    if not agreeing:
        return "the episodes it names do not show what it claims"
    for name in ("goal", "state"):
        if not any(_grounded(draft.keys.get(name, ""), episode) for episode in agreeing):
            return f"its key {name!r} holds words that the episodes it names never showed"
    parents = set(draft.source.parents)
    if all(any(parents.intersection(turn.memory_ids) for turn in episode.turns) for episode in agreeing):
        return "the episodes it names were played while the memory it was made from was shown"
    if body_of is not None and all(_was_told(episode, draft.body, body_of) for episode in agreeing):
        return "in the episodes it names, a memory that was shown had advised what it advises"
    return None


def is_shown(draft: Draft, episode_of: EpisodeOf, body_of: BodyOf | None = None) -> bool:
    """Whether a step of an episode that a draft names is its very advice: its action, played in the state of its key.

    More than what suffices for a draft that is trusted already: the key is what was seen in that turn and nothing but
    words of the goal and of the first observation besides.
    """
    body, key = draft.body, draft.keys.get("state", "")
    if not isinstance(body, InsightBody) or not body.action or lack_of_evidence(draft, episode_of, body_of) is not None:
        return False
    for id in (*draft.source.episode_ids, *body.evidence_for):
        episode = episode_of(id)
        if episode is None or not episode.success or doubts_about(episode):
            continue
        around = {*episode.task.goal.split(), *episode.turns[0].observation.split()}
        for turn in episode.turns:
            seen = turn.observation.strip()
            played = turn.valid and turn.action is not None and fits(body.action, turn.action)
            if not played or not seen or seen not in key:
                continue
            before, _, after = key.partition(seen)
            if {*before.split(), *after.split()} <= around:
                return True
    return False


def _was_told(episode: Episode, body: Body, body_of: BodyOf) -> bool:
    """Whether an action that `body` advises was played in a turn that showed a memory advising it."""
    templates = (body.action,) if isinstance(body, InsightBody) else getattr(body, "actions", ())
    templates = () if isinstance(body, EpisodeBody) else tuple(filter(None, templates))
    for turn in episode.turns:
        if turn.action is None or not turn.memory_ids or not _has([turn.action], *templates):
            continue
        for told in map(body_of, turn.memory_ids):
            advice = recommended(told, turn.state_key)[0] if told is not None else ""
            if advice and (fits(advice, turn.action) or normalised(advice) == normalised(turn.action)):
                return True
    return False


def doubts_about(episode: Episode) -> tuple[str, ...]:
    """What speaks against an episode having gone as its record says; empty for a sound one."""
    doubts = []
    turns = episode.turns
    if any(not math.isfinite(turn.reward) for turn in turns):
        doubts.append("a reward is not a finite number")
    if any(turn.terminated for turn in turns[:-1]):
        doubts.append("it goes on after a terminal state")
    if episode.success:
        if episode.error is not None:
            doubts.append("success although the attempt broke off")
        if not turns or not turns[-1].terminated:
            doubts.append("success without a terminal state")
        if not any(turn.action is not None and turn.valid for turn in turns):
            doubts.append("success without a valid action")
    if any(turn.reward > 0 and turn.action is None for turn in turns):
        doubts.append("a reward in a turn without an action")
    return tuple(doubts)


def fits(template: str, action: str) -> bool:
    """Whether an action is an instance of a template, e.g. `open fridge 1` of `open {receptacle}`.

    >>> fits("open {receptacle}", "Open fridge 1"), fits("open {receptacle}", "go to fridge 1")
    (True, False)
    """
    pattern = ".+".join(re.escape(part) for part in _SLOT.split(" ".join(template.split())))
    return re.fullmatch(pattern, " ".join(action.split()), re.IGNORECASE | re.DOTALL) is not None


def _bears_out(episode: Episode, body: Body) -> bool:
    actions = [turn.action for turn in episode.turns if turn.action is not None and turn.valid]
    match body:
        case EpisodeBody():
            kept = tuple(clip(action, ACTION_LIMIT) for action in actions)
            return episode.success == body.success and body.actions in (tuple(actions), kept)
        case StepBody():
            return any(
                turn.observation == body.observation and turn.action == body.action and turn.reward == body.reward
                for turn in episode.turns
            )
        case InsightBody() if body.action:
            return episode.success and _has(actions, body.action)
        case InsightBody() if body.avoid:
            return not episode.success and _has(actions, body.avoid)
        case SkillBody():
            return episode.success and _in_order(actions, body.actions)
        case FailureBody() if body.action:  # also what was not understood counts as tried
            return any(turn.action is not None and fits(body.action, turn.action) for turn in episode.turns)
    return True


def _grounded(key: str, episode: Episode) -> bool:
    """Whether the words of a key were seen in the episode, one in twenty and one in all excepted.

    A trigger is made of words that nothing but the trigger holds.
    """
    whole, cut, _ = key.partition("… [cut: the first ")  # as `clip` writes it, also in the middle of a word
    words = set(_SLOT.sub(" ", whole.rpartition(" ")[0] if cut else whole).lower().split())
    shown = printable(" ".join((episode.task.goal, *(turn.observation for turn in episode.turns))).lower())
    return len(words.difference(shown.split())) <= max(1, len(words) // 20)


def _has(actions: Iterable[str], *templates: str) -> bool:
    return any(fits(template, action) for action in actions for template in templates)


def _in_order(actions: Sequence[str], templates: Sequence[str]) -> bool:
    left = iter(actions)
    return all(any(fits(template, action) for action in left) for template in templates)
