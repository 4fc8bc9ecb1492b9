"""Policies: the engines that act, and the test doubles."""

from importlib import import_module
from typing import Any

_HOMES = {
    "Completion": "policy",
    "Policy": "policy",
    "Request": "policy",
    "Sampling": "policy",
    "World": "policy",
    "ChatPolicy": "chat",
    "LocalPolicy": "local",
    "ExpertPolicy": "doubles",
    "RandomPolicy": "doubles",
    "ScriptedPolicy": "doubles",
    "as_response": "doubles",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'agentkit.policies' has no attribute {name!r}")
    return getattr(import_module(f"agentkit.policies.{_HOMES[name]}"), name)
