"""CasePolicy: does again what worked in the very same state; no language model."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from agentkit.policies.doubles import as_response
from agentkit.policies.policy import Completion, Policy, Request

if TYPE_CHECKING:
    from agentkit.memory.kinds import Memory


class CasePolicy:
    """Follows a remembered success wherever the present state is one of its states, and asks `otherwise` elsewhere.

    Case-based reasoning with exact states, the part of AgentFly (Zhou et al. 2025, 2508.16153) that needs no model:
    the case bank is the episode memory, and reuse is literal. Of several successes that passed through a state, the
    most trusted counts, then the one that was nearest to its end, then the least id.

    Args:
        cases: Memories; those that are no successful episodes are passed over.
        otherwise: Who acts in states that no case knows.
        version: Written into every episode; raise it when the cases have changed.
    """

    def __init__(self, cases: Iterable[Memory], otherwise: Policy, version: int = 0) -> None:
        self.name = f"cases+{otherwise.name}"
        self.version = version
        self._otherwise = otherwise
        best: dict[str, tuple[int, int, str, str]] = {}
        for case in cases:
            body = case.body
            if body.kind != "episode" or not body.success:
                continue
            for place, (state_key, action) in enumerate(zip(body.state_keys, body.actions, strict=False)):
                offer = (-int(case.trust), len(body.actions) - place, case.id, action)
                if state_key and (state_key not in best or offer < best[state_key]):
                    best[state_key] = offer
        self._action_of = {state_key: offer[-1] for state_key, offer in best.items()}

    def __len__(self) -> int:
        """Number of states that are known."""
        return len(self._action_of)

    async def complete(self, request: Request) -> Completion:
        """The action of the case that knows the state, or what `otherwise` answers."""
        action = self._action_of.get(request.world.state_key)
        if action is None:
            return await self._otherwise.complete(request)
        return Completion(as_response(action))
