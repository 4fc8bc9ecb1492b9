"""Agents beside the plain one: retries with reflection, and anticipation before every action."""

from typing import TYPE_CHECKING

from agentkit.lazy import lazy_names

if TYPE_CHECKING:
    from agentkit.agents.anticipation import build_anticipating_agent as build_anticipating_agent
    from agentkit.agents.reflection import Reflection as Reflection
    from agentkit.agents.reflection import by_model as by_model
    from agentkit.agents.reflection import chat_with as chat_with
    from agentkit.agents.reflection import from_record as from_record
    from agentkit.agents.reflection import pivotal_turn as pivotal_turn
    from agentkit.agents.retries import collect_retries as collect_retries
    from agentkit.agents.retries import collect_retries_async as collect_retries_async
    from agentkit.agents.retries import retry as retry

_HOMES = {
    "Reflection": "agentkit.agents.reflection",
    "build_anticipating_agent": "agentkit.agents.anticipation",
    "by_model": "agentkit.agents.reflection",
    "chat_with": "agentkit.agents.reflection",
    "collect_retries": "agentkit.agents.retries",
    "collect_retries_async": "agentkit.agents.retries",
    "from_record": "agentkit.agents.reflection",
    "pivotal_turn": "agentkit.agents.reflection",
    "retry": "agentkit.agents.retries",
}

__all__ = list(_HOMES)
__getattr__, __dir__ = lazy_names(__name__, _HOMES)
