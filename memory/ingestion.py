"""What an episode's record alone says, as drafts: how it went, its transitions, its rules, the ways in which it failed.

No model is asked: rewards, ends, states and validity are facts of the record. The same episode gives the same drafts.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator

from agentkit.errors import unknown_name
from agentkit.memory.case import clip, printable
from agentkit.memory.kinds import Body, Draft, EpisodeBody, FactBody, FailureBody, Kind, Source, StepBody
from agentkit.memory.records import Episode, Turn
from agentkit.memory.slots import abstract

TEXT_LIMIT = 4_000
"""Characters of a draft's text."""
KEY_LIMIT = 1_000
"""Characters of a key; embedding models read about a thousand."""
ACTION_LIMIT = 200
"""Characters of an action as it is shown."""
_GOAL_LINE = re.compile(r"^[ \t]{0,8}(?:your task is to|task|goal|instruction):[ \t]*(\S[^\n]*)", re.I | re.M)


def ingest(episode: Episode, kinds: Iterable[Kind] = ("episode", "failure")) -> list[Draft]:
    """The memories that follow from one episode, equal for equal episodes, ordered by kind and turn.

    * `episode`: one draft, what was done and how it ended.
    * `step`: one draft for each turn that was played. What was shown after the last turn is not on record: its
      `next_observation` and `next_state_key` are empty.
    * `fact`: one draft for each state and action that led to one and the same state whenever it was played.
    * `failure`: loops, budgets, losing ends and errors of an episode without success; invalid turns of any. One draft
      for each signature, about all the turns that bear it.

    Raises:
        UnknownNameError: A kind that one episode cannot give (insights and skills are made from several).
    """
    makers = {"episode": _episode, "step": _steps, "fact": _facts, "failure": _failures}
    wanted = list(kinds)
    for kind in wanted:
        if kind not in makers:
            raise unknown_name("kind of memory that one episode gives", kind, makers)
    return [draft for kind in makers if kind in wanted for draft in makers[kind](episode)]


def goal_of(episode: Episode) -> str:
    """What was to be reached: the task's goal, else the line of the first observation that states it, else nothing."""
    if episode.task.goal or not episode.turns:
        return clip(episode.task.goal, KEY_LIMIT)
    stated = _GOAL_LINE.search(episode.turns[0].observation)
    return clip(stated.group(1).strip(), KEY_LIMIT) if stated else ""


def state_of(turn: Turn) -> str:
    """The state in which the policy was asked: its key, or a hash of the observation where the environment has none."""
    if turn.state_key:
        return turn.state_key
    return "seen:" + hashlib.blake2b(turn.observation.encode(), digest_size=16).hexdigest()


def draft_from(
    episode: Episode,
    body: Body,
    text: str,
    *,
    turns: tuple[int, ...] = (),
    observation: str = "",
    condition: str = "",
    episode_ids: tuple[str, ...] = (),
    writer: str = "ingest",
) -> Draft:
    """A draft of our own about `episode`, found by its goal, what was seen and when it applies, where they are known.

    Args:
        episode: The first episode that it is about.
        body: What was learnt.
        text: What a policy is shown.
        turns: Turns of `episode` that it is about; empty for all.
        observation: What was seen, for the key `state`.
        condition: When it applies, for the key `condition`.
        episode_ids: Further episodes that it was made from.
        writer: Name of what made it.
    """
    named = {"goal": goal_of(episode), "state": observation, "condition": condition}
    keys = {name: printable(clip(value, KEY_LIMIT)) for name, value in named.items() if value}
    return Draft(
        body=body,
        text=printable(clip(text, TEXT_LIMIT)),
        keys=keys or {"goal": episode.task.env_id},
        env_id=episode.task.env_id,
        task_key=episode.task.key,
        split=episode.task.split,
        source=Source(
            writer="environment",
            name=writer,
            episode_ids=tuple(dict.fromkeys((episode.id, *episode_ids))),
            turns=turns,
            policy=episode.policy,
            policy_version=episode.policy_version,
        ),
    )


def _episode(episode: Episode) -> Iterator[Draft]:
    played = [turn for turn in episode.turns if turn.valid and turn.action is not None]
    body = EpisodeBody(
        success=episode.success,
        episode_return=episode.episode_return,
        actions=tuple(turn.action for turn in played if turn.action is not None),
        state_keys=tuple(turn.state_key for turn in played),
    )
    goal = goal_of(episode)
    first = episode.turns[0].observation if episode.turns else ""
    outcome = "Success" if episode.success else "Failure" if episode.error is None else "Broken off"
    head = [f"Goal: {clip(goal, 300)}"] if goal else [f"Began with: {clip(first, 600)}"] if first else []
    last = f"{outcome} after {_count(len(episode.turns), 'turn')}, return {episode.episode_return:g}."
    done = "\n".join([*head, *_runs(body.actions)])
    text = clip(done, TEXT_LIMIT - len(last) - 1) + "\n" + last if done else last
    yield draft_from(episode, body, text, observation=first)


def _steps(episode: Episode) -> Iterator[Draft]:
    for number, turn in enumerate(episode.turns):
        if turn.action is None:
            continue
        after = episode.turns[number + 1] if number + 1 < len(episode.turns) else None
        body = StepBody(
            observation=turn.observation,
            action=turn.action,
            reward=turn.reward,
            next_observation=after.observation if after else "",
            terminated=turn.terminated,
            truncated=turn.truncated,
            state_key=turn.state_key,
            next_state_key=after.state_key if after else "",
        )
        then = clip(after.observation, 1_200) if after else "the episode ended"
        lines = [
            f"Seen: {clip(turn.observation, 1_200)}",
            f"Done: {clip(turn.action, ACTION_LIMIT)}",
            f"Then: {then}",
            f"Reward: {turn.reward:g}",
        ]
        yield draft_from(episode, body, "\n".join(lines), turns=(number,), observation=turn.observation)


def _facts(episode: Episode) -> Iterator[Draft]:
    led: dict[tuple[str, str], list[int]] = {}
    for number, turn in enumerate(episode.turns[:-1]):
        if turn.action is not None and turn.valid and turn.state_key and episode.turns[number + 1].state_key:
            led.setdefault((turn.state_key, turn.action), []).append(number)
    for (state, action), numbers in led.items():
        ends = {episode.turns[number + 1].state_key for number in numbers}
        if len(ends) > 1:
            continue  # chance has a say in it, or the state key does not tell all
        (end,) = ends
        turn, after = episode.turns[numbers[0]], episode.turns[numbers[0] + 1]
        effect = "changes nothing" if end == state else f"leads to: {clip(after.observation, 1_200)}"
        text = f"Seen: {clip(turn.observation, 1_200)}\nHere `{clip(action, ACTION_LIMIT)}` {effect}"
        body = FactBody(subject=state, relation=action, value=end, num_seen=len(numbers))
        yield draft_from(episode, body, text, turns=tuple(numbers), observation=turn.observation)


def _failures(episode: Episode) -> Iterator[Draft]:
    found = list(_invalid(episode))
    if not episode.success:
        found = [*_loops(episode), *found, *_ends(episode)]
    bearing: dict[str, tuple[FailureBody, str, list[int]]] = {}
    for body, text, numbers in found:
        if body.signature in bearing:
            bearing[body.signature][2].extend(numbers)
        else:
            bearing[body.signature] = (body, text, list(numbers))
    for body, text, numbers in bearing.values():
        seen = body.model_copy(update={"num_seen": max(1, len(numbers))})
        observation = episode.turns[numbers[0]].observation if numbers else ""
        yield draft_from(episode, seen, text, turns=tuple(sorted(numbers)), observation=observation)


Finding = tuple[FailureBody, str, list[int]]
"""What failed, in words, and at which turns."""


def _loops(episode: Episode) -> Iterator[Finding]:
    played: dict[tuple[str, str], list[int]] = {}
    for number, turn in enumerate(episode.turns):
        if turn.action is not None and turn.valid:
            played.setdefault((state_of(turn), turn.action), []).append(number)
    for (_, action), numbers in played.items():
        if len(numbers) > 1:
            shown = clip(action, ACTION_LIMIT)
            text = f"Failed by a loop: `{shown}` was played {len(numbers)} times in the same state."
            yield _failure("loop", action), text, numbers[1:]  # the first time was no repetition


def _invalid(episode: Episode) -> Iterator[Finding]:
    for number, turn in enumerate(episode.turns):
        if not turn.valid and turn.action is not None:
            text = f"Not understood: `{clip(turn.action, ACTION_LIMIT)}` is no action here."
            yield _failure("invalid", turn.action), text, [number]
        elif not turn.valid:
            body = FailureBody(signature="invalid: no action", cause="invalid")
            yield body, "Not understood: the answer held no action.", [number]


def _ends(episode: Episode) -> Iterator[Finding]:
    number = len(episode.turns) - 1
    last = episode.turns[-1] if episode.turns else None
    if last and last.terminated:
        text = f"Failed for good: the episode ended, without success, with `{clip(last.action or '', ACTION_LIMIT)}`."
        yield _failure("terminal", last.action or ""), text, [number]
    elif last and last.truncated:
        body = FailureBody(signature="budget: turns ran out", cause="budget")
        yield body, f"Failed by running out of turns: no success within {_count(number + 1, 'turn')}.", [number]
    if episode.error is not None:
        first = clip(episode.error.strip().partition("\n")[0], ACTION_LIMIT)
        (template,) = abstract([first]).templates
        body = FailureBody(signature=f"error: {template}", cause="error")
        yield body, f"Broken off by an error: {first}", [number] if last else []


def _failure(cause: str, action: str) -> FailureBody:
    (template,) = abstract([clip(action, ACTION_LIMIT)]).templates
    return FailureBody.model_validate({"signature": f"{cause}: {template}", "cause": cause, "action": template})


def _runs(actions: tuple[str, ...]) -> Iterator[str]:
    """One numbered line for each action, one for a run of equal actions."""
    first = 0
    for number in range(1, len(actions) + 1):
        if number == len(actions) or actions[number] != actions[first]:
            times = number - first
            shown = clip(actions[first], ACTION_LIMIT)
            yield f"{first + 1}. {shown}" if times == 1 else f"{first + 1}-{number}. {shown} ({times} times)"
            first = number


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
