"""Unaided: what was sampled with guidance in the prompt, as if it had been asked for without (context distillation).

Only prompts change. A prompt's messages lose the guidance and are rendered to ids again; its earlier answers carry the
ids that were sampled (`Message.ids`), which rendering repeats as they are. Response ids, their roles, actions, rewards
and observations stay. So the rows say: in the prompt without guidance, this was answered.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agentkit.agent import render_memories
from agentkit.agents.retries import Told
from agentkit.errors import ConfigError
from agentkit.memory.records import Episode, Message, Part, Role, Turn
from agentkit.training.plans.plan import as_made

if TYPE_CHECKING:
    from agentkit.policies.local import LocalPolicy


def unaided(policy: LocalPolicy, episode: Episode, told: Told, how: str, **changes: Any) -> Episode:
    """The episode with prompts that do not show `told`, as an episode of its own.

    Its log-probabilities are still those with guidance.

    Args:
        policy: Renders the prompts.
        episode: As it was played.
        told: The guidance; turns that show it have its id among their `memory_ids`.
        how: Goes into the name of the policy, e.g. `r3l`.
        changes: Other fields of the new episode.

    Raises:
        ConfigError: A prompt that should show the guidance does not, as `build_agent` shows it.
    """
    turns = tuple(_without(policy, turn, told) if told.id in turn.memory_ids else turn for turn in episode.turns)
    return as_made(episode, how, turns=turns, **changes)


def _without(policy: LocalPolicy, turn: Turn, told: Told) -> Turn:
    messages = tuple(_stripped(message, told) for message in turn.messages)
    if messages == turn.messages:
        raise ConfigError(
            "the agent shows guidance in words of its own, so it cannot be taken out of the prompts to learn without "
            "it; show `render_memories(attempt.remember())` as it is, in a part of role MEMORY"
        )
    prompt_ids, prompt_roles = policy.renderer.render(messages)
    memory_ids = tuple(id for id in turn.memory_ids if id != told.id)
    changes = {
        "messages": messages,
        "prompt_ids": prompt_ids,
        "prompt_roles": prompt_roles,
        "memory_ids": memory_ids,
    }
    return turn.model_copy(update=changes)


def _stripped(message: Message, told: Told) -> Message:
    parts = []
    for part in message.parts:
        if not isinstance(part, Part) or part.role is not Role.MEMORY:
            parts.append(part)
        elif text := _rest(part.text, told):
            parts.append(part.model_copy(update={"text": text}))
    return message if tuple(parts) == message.parts else message.model_copy(update={"parts": tuple(parts)})


def _rest(text: str, told: Told) -> str:
    """The text of a memory block without one memory; empty if that was the only one."""
    alone = render_memories((told,))
    if text == alone:
        return ""
    block = alone[alone.index("<memory id=") :].rstrip("\n")
    return text.replace(block + "\n", "", 1)
