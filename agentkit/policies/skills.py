"""SkillPolicy: a policy that may answer with a skill, whose actions are then played one after the other.

`use fetch with object_1=egg 2` is one decision and several ordinary turns: each action is a turn of its own in the
record. The skill is what memory holds (`SkillBody`), so what was learnt as a sequence is played as one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from agentkit.errors import AgentkitError, ConfigError, unknown_name
from agentkit.memory.skills import expand
from agentkit.memory.slots import bind
from agentkit.policies.doubles import as_response
from agentkit.policies.policy import Completion, Policy, Request, World
from agentkit.spans import parse_response

if TYPE_CHECKING:
    from agentkit.memory.kinds import Draft, SkillBody

_CALL = re.compile(r"\s*use\s+(?P<name>.+?)(?:\s+with\s+(?P<given>\w+\s*=.*))?\s*", re.IGNORECASE | re.DOTALL)
_SLOT = re.compile(r"(?:^|,)\s*(\w+)\s*=\s*")


@dataclass
class _Playing:
    """The rest of a skill that an attempt is playing."""

    actions: tuple[str, ...]
    place: int = 0


class SkillPolicy:
    """Asks `inner`, and where it answers with a skill, plays the actions of it before it asks again.

    A call is `use NAME with SLOT=VALUE, SLOT=VALUE`. `inner` learns of its skills as of any memory: recalled, they
    stand in the prompt. An answer `use ...` that names no skill and binds no slot is an ordinary action (a household
    has `use desklamp 1`).

    * A call that is wrong (unknown skill or slot, a slot without a value) or whose preconditions are not seen costs one
      turn: it goes to the environment as it is, which does not understand it, with the reason as the thought, so that
      the next prompt shows it.
    * A skill ends early where the environment names its admissible actions and the next one is not among them;
      `inner` is asked in its place.
    * Turns that play a skill hold no token ids: they act, and are not trained on.

    Use it with graphs in which every request is for an action, such as `build_agent`.

    Args:
        inner: Who decides.
        skills: Drafts or memories; those of other kinds are passed over. Names count without regard to case, and of
            equal ones the first.
        check: Whether preconditions have to be seen in the last message.
    """

    def __init__(self, inner: Policy, skills: Iterable[Draft], *, check: bool = True) -> None:
        self.name = f"skills+{inner.name}"
        self._inner = inner
        self._check = check
        self._skills: dict[str, SkillBody] = {}
        for skill in skills:
            if skill.body.kind == "skill":
                self._skills.setdefault(skill.body.name.lower(), skill.body)
        self._playing: WeakKeyDictionary[World, _Playing] = WeakKeyDictionary()

    @property
    def version(self) -> int:
        """Version of `inner`."""
        return self._inner.version

    def __len__(self) -> int:
        """Number of skills."""
        return len(self._skills)

    async def complete(self, request: Request) -> Completion:
        """The next action of the skill being played, or what `inner` answers, its skill begun."""
        begun = self._playing.get(request.world)
        if begun is not None and _possible(begun.actions[begun.place], request.world):
            return self._step(begun, request.world)
        self._playing.pop(request.world, None)
        completion = await self._inner.complete(request)
        parsed = parse_response(completion.text)
        call = _CALL.fullmatch(parsed.text) if parsed else None
        if parsed is None or call is None or not (call["given"] or call["name"].lower() in self._skills):
            return completion
        try:
            playing = self._begin(call, request.messages[-1].text)
        except AgentkitError as error:
            reason = str(error).replace("<", "‹")  # it quotes the call, which may hold our own tags
            return Completion(as_response(parsed.text, f"This cannot be played: {reason}"))
        return self._step(playing, request.world)

    def _begin(self, call: re.Match[str], seen: str) -> _Playing:
        skill = self._skills.get(call["name"].lower())
        if skill is None:
            raise unknown_name("skill", call["name"], [known.name for known in self._skills.values()])
        pieces = _SLOT.split(call["given"] or "")
        binding = {slot: value.strip() for slot, value in zip(pieces[1::2], pieces[2::2], strict=True)}
        actions = expand(skill, binding)
        for condition in skill.preconditions if self._check else ():
            if (needed := bind(condition, binding)) not in seen:
                raise ConfigError(f"the skill {skill.name!r} needs {needed!r}, which is not seen")
        return _Playing(actions)

    def _step(self, playing: _Playing, world: World) -> Completion:
        action = playing.actions[playing.place]
        playing.place += 1
        thought = f"Skill, action {playing.place} of {len(playing.actions)}."
        if playing.place < len(playing.actions):
            self._playing[world] = playing
        else:
            self._playing.pop(world, None)
        return Completion(as_response(action, thought))


def _possible(action: str, world: World) -> bool:
    """Whether an action can be played now, as far as the environment says."""
    admissible = {" ".join(one.lower().split()) for one in world.admissible_actions}
    return not admissible or " ".join(action.lower().split()) in admissible
