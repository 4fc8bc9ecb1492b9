"""What a successful attempt did where a failed one went wrong: attempts aligned by state, differences as insights.

A failed attempt often strays and comes back, so the difference that counts is where it left the successful attempt's
path for good: the last of its states that both were in and in which it did otherwise. What was done in that state by
all the attempts, successful or not, is the evidence, so an insight cannot cite what is not on record.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from agentkit.errors import ConfigError
from agentkit.memory.case import clip
from agentkit.memory.ingestion import ACTION_LIMIT, draft_from, goal_of, ingest, state_of
from agentkit.memory.kinds import Draft, FailureBody, InsightBody
from agentkit.memory.records import Episode
from agentkit.memory.slots import abstract, bind, kinds_in

SEEN_LIMIT = 600
"""Characters of an observation that become part of a condition."""


@dataclass
class _Path:
    """An attempt as the places it was in, and the last turn in each."""

    episode: Episode
    exact: bool
    """Places are states, rather than templates of what was seen."""
    last: dict[str, tuple[int, str]] = field(default_factory=dict)
    """Place -> (turn, what was done there), in the order of the turns."""

    def literal(self, place: str, done: str) -> str:
        """What was done in a place by any attempt, in terms of the things that this one saw there."""
        if self.exact:
            return done
        return bind(done, abstract([self.episode.turns[self.last[place][0]].observation[:SEEN_LIMIT]]).binding)


@dataclass
class _Lesson:
    """`action` rather than `avoid` under `condition`, with the attempts that speak for and against it."""

    condition: str
    action: str
    avoid: str
    example: tuple[Episode, int, str, str]
    """A successful attempt, its turn, and the literal actions to do and to avoid."""
    right: dict[str, Episode] = field(default_factory=dict)
    """Attempts that speak for it, by id."""
    wrong: dict[str, Episode] = field(default_factory=dict)
    exact: bool = True
    """The states were equal, rather than similar in a similar task."""

    def add(self, other: _Lesson) -> None:
        """Pool the evidence of a lesson with the same condition and action.

        If it advises against something else, what it says of that is left out: it is no evidence for this contrast.
        """
        same = other.avoid == self.avoid
        self.right.update({name: made for name, made in other.right.items() if same or made.success})
        self.wrong.update({name: made for name, made in other.wrong.items() if same or not made.success})
        self.exact = self.exact and other.exact


def distil(successes: Iterable[Episode], failures: Iterable[Episode]) -> list[Draft]:
    """Insights from failed attempts aligned with successful ones, then failures of which a fix became known by it.

    A failed attempt is compared with the successful ones at the same task, by state. If there is none, it is compared
    with those at tasks whose goal has the same template, by the template of the observation; what comes of that is on
    probation. `evidence_for` are the successes that did what the insight advises and the failures that did not,
    `evidence_against` the contrary; an attempt that is both is neither. An insight is made only if what it advises has
    succeeded more often than its contrary, and more attempts speak for it than against. Equal ones are merged: no two
    of an environment share condition and action.

    The first of `source.episode_ids` is a successful attempt for an insight, and `source.turns` the turn in which it
    did what is advised; the failed attempt and its turns for a failure. Nothing that is remembered is rewritten.

    Raises:
        ConfigError: A failed attempt is among the successes, or a successful one among the failures.
    """
    good = _distinct(successes, success=True)
    bad = _distinct(failures, success=False)
    lessons: dict[tuple[str, str, str, str], _Lesson] = {}
    fixes: dict[tuple[str, str, str, str], list[Draft]] = {}
    for paths, exact in _groups(good, bad):
        for lesson in _lessons(paths, exact):
            task = lesson.example[0].task
            known = lessons.setdefault((task.env_id, task.split, lesson.condition, lesson.action), lesson)
            known.add(lesson)
        for failure in _fixed(paths):
            if isinstance(failure.body, FailureBody):
                named = (failure.env_id, failure.split, failure.body.signature, failure.body.fix)
                fixes.setdefault(named, []).append(failure)
    insights = (_insight(lesson) for lesson in lessons.values())
    return [*(draft for draft in insights if draft), *(_merged(equal) for equal in fixes.values())]


def _distinct(episodes: Iterable[Episode], *, success: bool) -> list[Episode]:
    found = {episode.id: episode for episode in episodes}
    for episode in found.values():
        if episode.success is not success:
            is_, wanted = ("succeeded", "failures") if episode.success else ("failed", "successes")
            raise ConfigError(f"episode {episode.id!r} {is_}, so it cannot be among the {wanted}; sort by `success`")
    return list(found.values())


def _groups(good: Sequence[Episode], bad: Sequence[Episode]) -> Iterator[tuple[list[_Path], bool]]:
    """Attempts to compare with each other, and whether they are at one and the same task."""
    solved = {episode.task.key for episode in good}
    by_task: dict[str, list[_Path]] = {}
    by_goal: dict[tuple[str, str, str], list[_Path]] = {}
    for episode in (*good, *bad):
        if episode.task.key in solved:
            by_task.setdefault(episode.task.key, []).append(_path(episode, exact=True))
    unsolved = [episode for episode in bad if episode.task.key not in solved]
    if unsolved:
        for episode in (*good, *unsolved):
            if goal := goal_of(episode):
                texts = [turn.observation[:SEEN_LIMIT] for turn in episode.turns]
                (template,) = abstract([goal], kinds=kinds_in(texts)).templates
                named = (episode.task.env_id, episode.task.split, template)
                by_goal.setdefault(named, []).append(_path(episode, exact=False))
    yield from ((paths, True) for paths in by_task.values())
    yield from ((paths, False) for paths in by_goal.values())


def _path(episode: Episode, *, exact: bool) -> _Path:
    path = _Path(episode, exact)
    for number, turn in enumerate(episode.turns):
        if turn.action is None or len(turn.action) > ACTION_LIMIT:
            continue  # a rambling answer is no advice
        if exact:
            place, done = state_of(turn), turn.action
        else:
            seen = abstract([turn.observation[:SEEN_LIMIT]])
            place, done = seen.templates[0], seen.template(turn.action)
        path.last.pop(place, None)  # so that the order is that of the last turns
        path.last[place] = (number, done)
    return path


def _departure(success: _Path, failure: _Path) -> str | None:
    """The place where the failure left the path of the success for good, by doing otherwise."""
    for place in reversed(failure.last):
        if place in success.last and success.last[place][1] != failure.last[place][1]:
            return place
    return None


def _lessons(paths: Sequence[_Path], exact: bool) -> Iterator[_Lesson]:
    good = [path for path in paths if path.episode.success]
    found: dict[tuple[str, str], dict[str, _Path]] = {}
    for failure in paths:
        for success in good if not failure.episode.success else ():
            place = _departure(success, failure)
            if place is not None:
                todo, avoid = success.last[place][1], failure.last[place][1]
                found.setdefault((place, todo), {}).setdefault(avoid, success)
    for (place, todo), pairs in found.items():
        did: dict[str, list[_Path]] = {}
        for path in paths:
            if place in path.last:
                did.setdefault(path.last[place][1], []).append(path)
        # of several ways to go wrong the most frequent one; the first on record if they are equally frequent
        avoid = max(pairs, key=lambda way: sum(not path.episode.success for path in did[way]))
        won = {way: sum(path.episode.success for path in did[way]) for way in (todo, avoid)}
        if won[todo] * len(did[avoid]) <= won[avoid] * len(did[todo]):
            continue  # what is advised has not succeeded more often than what is advised against
        success = pairs[avoid]
        turn = success.last[place][0]
        literal = (success.literal(place, todo), success.literal(place, avoid))
        condition, templates = _templates(success.episode, turn, literal)
        lesson = _Lesson(condition, templates[0], templates[1], (success.episode, turn, *literal), exact=exact)
        for path in did[todo]:
            (lesson.right if path.episode.success else lesson.wrong)[path.episode.id] = path.episode
        for path in did[avoid]:
            (lesson.wrong if path.episode.success else lesson.right)[path.episode.id] = path.episode
        yield lesson


def _templates(episode: Episode, turn: int, actions: tuple[str, str]) -> tuple[str, list[str]]:
    """The condition in which a turn was played, and actions with the same slots."""
    goal, seen = goal_of(episode), episode.turns[turn].observation[:SEEN_LIMIT]
    stated = f"Goal: {goal}\nSeen: {seen}" if goal and goal not in seen else f"Seen: {seen}"
    made = abstract([stated], kinds=kinds_in([seen, *actions]) if goal else ())
    return made.templates[0], [made.template(action) for action in actions]


def _insight(lesson: _Lesson) -> Draft | None:
    torn = lesson.right.keys() & lesson.wrong.keys()
    right = {name: episode for name, episode in lesson.right.items() if name not in torn}
    wrong = {name: episode for name, episode in lesson.wrong.items() if name not in torn}
    episode, turn, action, avoid = lesson.example
    if episode.id not in right or len(right) <= len(wrong):
        return None
    tasks = {known.task.key for known in (*right.values(), *wrong.values())}
    seen = episode.turns[turn].observation
    one = len(tasks) == 1
    condition = f"Seen: {clip(seen, SEEN_LIMIT)}" if one else lesson.condition
    todo, not_todo = (action, avoid) if one else (lesson.action, lesson.avoid)
    advice = f"Do `{todo}` rather than `{not_todo}`."
    count = f"{len(right)} of {len(right) + len(wrong)} attempts speak for it."
    body = InsightBody(
        condition=lesson.condition,
        advice=f"Do `{lesson.action}` rather than `{lesson.avoid}`.",
        action=lesson.action,
        avoid=lesson.avoid,
        evidence_for=tuple(right),
        evidence_against=tuple(wrong),
    )
    draft = draft_from(
        episode,
        body,
        f"{condition}\n{advice} {count}",
        turns=(turn,),
        observation=seen,
        condition=lesson.condition,
        episode_ids=(*right, *wrong),
        writer="distil",
    )
    status = "active" if lesson.exact else "probation"
    return draft.model_copy(update={"task_key": draft.task_key if one else "", "status": status})


def _fixed(paths: Sequence[_Path]) -> Iterator[Draft]:
    """The failures of failed attempts, where a successful one was in the same place and did otherwise."""
    good = [path for path in paths if path.episode.success]
    for failure in paths:
        if failure.episode.success or not good:
            continue
        at = {turn: place for place, (turn, _) in failure.last.items()}
        for draft in ingest(failure.episode, ("failure",)):
            body = draft.body
            if not isinstance(body, FailureBody):
                continue
            turns = draft.source.turns
            if body.cause == "budget":  # it has no place of its own: turns ran out since the path was left
                left = (place for success in good if (place := _departure(success, failure)) is not None)
                turns = tuple(failure.last[place][0] for place in left)
            found = next(
                (
                    (at[turn], success)
                    for turn in turns
                    for success in good
                    if turn in at and at[turn] in success.last
                    if success.last[at[turn]][1] != failure.last[at[turn]][1]
                ),
                None,
            )
            if found:
                yield _with_fix(draft, body, failure, *found)


def _with_fix(draft: Draft, body: FailureBody, failure: _Path, place: str, success: _Path) -> Draft:
    turn, done = failure.last[place]
    action, fix = failure.literal(place, done), failure.literal(place, success.last[place][1])
    template = abstract([action if body.action else "", fix]).templates[1]
    seen = failure.episode.turns[turn].observation
    text = f"{draft.text}\nSeen: {clip(seen, SEEN_LIMIT)}\nHere it did `{action}`; what has succeeded is `{fix}`."
    made = draft_from(
        failure.episode,
        body.model_copy(update={"fix": template}),
        text,
        turns=(turn,),
        observation=seen,
        episode_ids=(success.episode.id,),
        writer="distil",
    )
    return made if failure.exact else made.model_copy(update={"status": "probation"})


def _merged(equal: Sequence[Draft]) -> Draft:
    """Failures with one signature and fix as one, told of the first of them."""
    first = equal[0]
    num_seen = sum(draft.body.num_seen for draft in equal if isinstance(draft.body, FailureBody))
    ids = tuple(dict.fromkeys(name for draft in equal for name in draft.source.episode_ids))
    return first.model_copy(
        update={
            "body": first.body.model_copy(update={"num_seen": num_seen}),
            "source": first.source.model_copy(update={"episode_ids": ids}),
            "task_key": first.task_key if len({draft.task_key for draft in equal}) == 1 else "",
            "status": max(draft.status for draft in equal),  # "probation" comes after "active"
        }
    )
