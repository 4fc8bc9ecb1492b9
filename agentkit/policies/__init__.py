"""Policies: the engines that act, and the test doubles."""

from typing import TYPE_CHECKING

from agentkit.lazy import lazy_names

if TYPE_CHECKING:
    from agentkit.policies.cases import CasePolicy as CasePolicy
    from agentkit.policies.chat import ChatPolicy as ChatPolicy
    from agentkit.policies.doubles import ExpertPolicy as ExpertPolicy
    from agentkit.policies.doubles import RandomPolicy as RandomPolicy
    from agentkit.policies.doubles import ScriptedPolicy as ScriptedPolicy
    from agentkit.policies.doubles import as_response as as_response
    from agentkit.policies.local import LocalPolicy as LocalPolicy
    from agentkit.policies.policy import Completion as Completion
    from agentkit.policies.policy import Policy as Policy
    from agentkit.policies.policy import Request as Request
    from agentkit.policies.policy import Sampling as Sampling
    from agentkit.policies.policy import World as World
    from agentkit.policies.skills import SkillPolicy as SkillPolicy

_HOMES = {
    "CasePolicy": "agentkit.policies.cases",
    "ChatPolicy": "agentkit.policies.chat",
    "Completion": "agentkit.policies.policy",
    "ExpertPolicy": "agentkit.policies.doubles",
    "LocalPolicy": "agentkit.policies.local",
    "Policy": "agentkit.policies.policy",
    "RandomPolicy": "agentkit.policies.doubles",
    "Request": "agentkit.policies.policy",
    "Sampling": "agentkit.policies.policy",
    "ScriptedPolicy": "agentkit.policies.doubles",
    "SkillPolicy": "agentkit.policies.skills",
    "World": "agentkit.policies.policy",
    "as_response": "agentkit.policies.doubles",
}

__all__ = list(_HOMES)
__getattr__, __dir__ = lazy_names(__name__, _HOMES)
