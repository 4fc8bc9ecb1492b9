"""Skills: short sequences of actions, with slots for the things acted on, that successful episodes have in common.

Frequent sequences alone are habits. A skill is a sequence with which episodes succeed more often than without, and no
part of a longer one that explains all its uses.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from agentkit.errors import ConfigError, unknown_name
from agentkit.memory.ingestion import ACTION_LIMIT, draft_from
from agentkit.memory.kinds import Draft, SkillBody
from agentkit.memory.records import Episode
from agentkit.memory.slots import Abstraction, abstract, bind, slots_of

SHORTEST = 2
"""Actions of the shortest skill."""
CONDITION_LIMIT = 300
"""Characters of a sentence that can be a condition; longer ones are lists and differ from use to use."""
_SENTENCE = re.compile(r"(?<=[.!?:]) |\n")
_BRACED = re.compile(r"\{[^{}]{0,60}\}")

Use = tuple[Episode, int, Abstraction]
"""Where a sequence was played: the episode, the turn of its first action, the slots of its actions."""


@dataclass
class _Pattern:
    """A sequence of templates and where it was played."""

    actions: tuple[str, ...]
    uses: list[Use] = field(default_factory=list)

    def episodes(self, *, success: bool) -> dict[str, Episode]:
        return {episode.id: episode for episode, _, _ in self.uses if episode.success is success}


def extract_skills(
    episodes: Iterable[Episode], min_support: int = 3, min_success: float = 0.5, max_length: int = 6
) -> list[Draft]:
    """The action sequences of 2 to `max_length` turns that are worth repeating, most widely used first.

    A sequence counts where its actions were played in consecutive turns and understood, and none is longer than 200
    characters. It becomes a skill if

    * at least `min_support` successful episodes hold it, and at least `min_success` of the episodes that hold it
      succeeded;
    * the odds of success are higher with it than without: (s + ½)(f' + ½) > (f + ½)(s' + ½), where s and f are the
      successful and failed episodes that hold it, s' and f' those that do not (Haldane's correction, for empty cells).
      Where no episode failed there is nothing to compare with, and this is not asked;
    * it is closed: no longer skill that contains it has as many uses.

    Conditions are sentences, with slots for the things acted on, that were seen in every use. After a use that ended
    its episode nothing was seen, so a skill with such a use has no postconditions. Environments and splits are kept
    apart. `source.turns` are the turns of the first use in a successful episode.

    Raises:
        ConfigError: A bound that is out of its range.
    """
    if min_support < 1 or not 0.0 <= min_success <= 1.0 or max_length < SHORTEST:
        raise ConfigError(
            f"min_support={min_support}, min_success={min_success}, max_length={max_length}; needed are "
            f"min_support >= 1, 0 <= min_success <= 1 and max_length >= {SHORTEST}"
        )
    apart: dict[tuple[str, str], dict[str, Episode]] = {}
    for episode in episodes:
        apart.setdefault((episode.task.env_id, episode.task.split), {})[episode.id] = episode
    drafts: list[Draft] = []
    for group in apart.values():
        patterns = _patterns(list(group.values()), max_length)
        chosen = [found for found in patterns.values() if _is_skill(found, group, min_support, min_success)]
        closed = _closed(chosen)
        closed.sort(key=lambda found: (-len(found.episodes(success=True)), -len(found.actions), found.actions))
        drafts += _drafts(closed)
    return drafts


def expand(skill: SkillBody, binding: Mapping[str, str]) -> tuple[str, ...]:
    """The actions of a skill for the things its slots are bound to.

    >>> take = SkillBody(name="take", slots=("object_1",), actions=("find {object_1}", "take {object_1}"))
    >>> expand(take, {"object_1": "egg 2"})
    ('find egg 2', 'take egg 2')

    Raises:
        ConfigError: A slot is not bound.
        UnknownNameError: The binding names a slot that the skill does not have.
    """
    for name in binding:
        if name not in skill.slots:
            raise unknown_name(f"slot of the skill {skill.name!r}", name, skill.slots)
    return tuple(bind(action, binding) for action in skill.actions)


def _patterns(episodes: Sequence[Episode], max_length: int) -> dict[tuple[str, ...], _Pattern]:
    found: dict[tuple[str, ...], _Pattern] = {}
    for episode in episodes:
        actions = [
            turn.action if turn.valid and len(turn.action or "") <= ACTION_LIMIT else None for turn in episode.turns
        ]
        for first in range(len(actions)):
            for last in range(first + SHORTEST, min(first + max_length, len(actions)) + 1):
                window = actions[first:last]
                played = [action for action in window if action is not None]
                if len(played) < len(window):
                    break  # a longer window holds the same gap
                made = abstract(played)
                found.setdefault(made.templates, _Pattern(made.templates)).uses.append((episode, first, made))
    return found


def _is_skill(found: _Pattern, group: Mapping[str, Episode], min_support: int, min_success: float) -> bool:
    won, lost = len(found.episodes(success=True)), len(found.episodes(success=False))
    if won < min_support or won < min_success * (won + lost):
        return False
    all_won = sum(episode.success for episode in group.values())
    all_lost = len(group) - all_won
    return not all_lost or (won + 0.5) * (all_lost - lost + 0.5) > (lost + 0.5) * (all_won - won + 0.5)


def _closed(chosen: Sequence[_Pattern]) -> list[_Pattern]:
    known = {found.actions: found for found in chosen}
    absorbed: set[tuple[str, ...]] = set()
    for found in chosen:
        for part in (found.actions[1:], found.actions[:-1]):
            # slots are numbered as they appear, so a part has to be numbered anew
            literal = [bind(action, found.uses[0][2].binding) for action in part]
            shorter = known.get(abstract(literal).templates)
            if shorter and len(shorter.uses) == len(found.uses):
                absorbed.add(shorter.actions)
    return [found for found in chosen if found.actions not in absorbed]


def _drafts(patterns: Sequence[_Pattern]) -> list[Draft]:
    names: dict[str, int] = {}
    drafts = []
    for found in patterns:
        name = "; ".join(" ".join(_BRACED.sub("", action).split()[:4]) for action in found.actions)
        names[name] = names.get(name, 0) + 1
        name = name if names[name] == 1 else f"{name} ({names[name]})"
        drafts.append(_draft(found, name))
    return drafts


def _draft(found: _Pattern, name: str) -> Draft:
    won, lost = found.episodes(success=True), found.episodes(success=False)
    length = len(found.actions)
    before = _common(found.uses)
    ended = any(first + length == len(episode.turns) for episode, first, _ in found.uses)
    after = () if ended else _common([(episode, first + length, made) for episode, first, made in found.uses])
    body = SkillBody(
        name=name,
        slots=tuple(dict.fromkeys(slot for action in found.actions for slot in slots_of(action))),
        actions=found.actions,
        preconditions=before,
        postconditions=after,
        num_uses=len(found.uses),
        num_successes=sum(episode.success for episode, _, _ in found.uses),
    )
    lines = [f"Skill: {name}", *(f"{number}. {action}" for number, action in enumerate(found.actions, 1))]
    lines += [f"When seen: {' '.join(before)}"] if before else []
    lines += [f"Then seen: {' '.join(after)}"] if after else []
    lines.append(f"{len(won)} of {len(won) + len(lost)} episodes that did so succeeded.")
    example, first, _ = next(use for use in found.uses if use[0].success)
    draft = draft_from(
        example,
        body,
        "\n".join(lines),
        turns=tuple(range(first, first + length)),
        observation=example.turns[first].observation,
        condition=" ".join(before),
        episode_ids=(*won, *lost),
        writer="skills",
    )
    tasks = {episode.task.key for episode in (*won.values(), *lost.values())}
    return draft if len(tasks) == 1 else draft.model_copy(update={"task_key": ""})


def _common(uses: Sequence[Use]) -> tuple[str, ...]:
    """Templates of the sentences that were seen in all of some turns, in the order of the first."""
    kept: dict[str, None] | None = None
    for episode, turn, made in uses:
        sentences = (piece.strip() for piece in _SENTENCE.split(episode.turns[turn].observation))
        seen = {made.template(said): None for said in sentences if " " in said and len(said) <= CONDITION_LIMIT}
        kept = seen if kept is None else {said: None for said in kept if said in seen}
    return tuple(kept or ())
