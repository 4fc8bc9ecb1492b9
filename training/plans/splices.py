"""Splices: a failed path up to its first error, then the way a sibling succeeded from there (Agent-R)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

from pydantic import Field

from agentkit.agent import seen as shown
from agentkit.memory.records import Episode, Message, Part, Role, Turn
from agentkit.policies.doubles import as_response
from agentkit.spans import parse_response
from agentkit.training.plans.plan import as_made, by_group
from agentkit.training.plans.playing_again import play_again, was_acted_on
from agentkit.training.settings import Settings


class AgentR(Settings):
    """Cuts each failure at its first error and goes on as a sibling did that succeeded (2501.11425), for fine-tuning.

    The first error is the first turn in whose state a success of the same group acted otherwise. With `keep_error`, the
    failure's turns are kept until it is in a state of that success again, so that the path holds the error and the way
    out of it; where it never is, and without `keep_error`, they are kept up to the error. The first turn after the cut
    begins its thought with the revision sentence. The paper joins texts; here the whole path is played again, what the
    environment then shows is what it holds, and a path that does not succeed is left out.

    A spliced turn is written text without token ids: give the episodes to `fine_tune`.
    """

    name: Literal["agent-r"] = "agent-r"
    revision: str = Field(default="That was not getting me there; I will try another way.", min_length=1)
    """What the thought of the first turn after the cut begins with."""
    keep_error: bool = True
    """Whether the error is part of the path where the failure came back from it."""
    per_failure: int = Field(default=1, ge=1)
    """Most spliced paths of one failure, each with another sibling."""

    def episodes(self, episodes: Sequence[Episode]) -> list[Episode]:
        """The spliced paths of all failures, with `parent_id` the failure and `parent_turn` the cut.

        Args:
            episodes: Attempts, whose groups hold failures and successes; states need keys.
        """
        made = []
        for group in by_group(episodes).values():
            successes = sorted((e for e in group if e.success and e.error is None), key=lambda e: len(e.turns))
            for failure in group:
                if not failure.success and failure.error is None:
                    found = (_spliced(self, failure, success) for success in successes)
                    made += [episode for episode in found if episode is not None][: self.per_failure]
        return made


def _spliced(settings: AgentR, failure: Episode, success: Episode) -> Episode | None:
    for cut, onward in _cuts(settings, failure, success):
        kept, rest = failure.turns[:cut], success.turns[onward:]
        again = play_again(failure.task, failure.attempt, [*kept, *rest])
        if not again.success:
            continue
        turns: list[Turn] = []
        conversation: list[Message] = []
        system = [message for message in failure.turns[0].messages if message.speaker == "system"]
        for number, (turn, now) in enumerate(zip([*kept, *rest], again.turns, strict=False)):
            conversation.append(shown(now.observation))
            response = _revised(turn.response, settings.revision) if number == cut else turn.response
            changes = {
                "observation": now.observation,
                "messages": (*system, *conversation),
                "response": response,
                "state_key": now.state_key,
                "reward": now.reward,
                "terminated": now.terminated,
                "truncated": now.truncated,
                "valid": now.valid,
                "memory_ids": (),
                "prompt_ids": (),
                "prompt_roles": (),
                "response_ids": (),
                "response_roles": (),
                "logprobs": (),
            }
            turns.append(turn.model_copy(update=changes))
            conversation.append(Message(speaker="assistant", parts=(Part(role=Role.OTHER, text=response),)))
        return as_made(
            failure, "agent-r", turns=tuple(turns), success=True, parent_id=failure.id, parent_turn=cut, format=1
        )
    return None


def _cuts(settings: AgentR, failure: Episode, success: Episode) -> Iterator[tuple[int, int]]:
    """(turn of the failure at which it is cut, turn of the success that comes next), the best first."""
    # The last time that the success was in a state is nearest to its end.
    last = {turn.state_key: number for number, turn in enumerate(success.turns) if turn.state_key}
    error = next(
        (
            number
            for number, turn in enumerate(failure.turns)
            if turn.state_key in last
            and was_acted_on(turn)
            and turn.action != success.turns[last[turn.state_key]].action
        ),
        None,
    )
    if error is None:
        return
    if settings.keep_error:
        later = (number for number in range(error + 1, len(failure.turns)))
        yield from ((number, last[key]) for number in later if (key := failure.turns[number].state_key) in last)
    if error > 0:  # a cut at the start would leave nothing of the failure
        yield error, last[failure.turns[error].state_key]


def _revised(response: str, revision: str) -> str:
    """The response with the revision sentence in front of its thought."""
    parsed = parse_response(response)
    if parsed is None:  # a success may hold a turn that was not understood
        return response
    start, end = parsed.thought
    thought = response[start + len("<think>") : end - len("</think>")].strip()
    return as_response(parsed.text, f"{revision} {thought}".strip())
