"""Episodes for the memory tests; imported by file, since tests are no package."""

from __future__ import annotations

from agentkit.memory.records import Episode, Message, Part, Role, Turn
from agentkit.task import Task


def make_episode(
    name: str = "one",
    *,
    observation: str = "a frozen lake",
    success: bool = True,
    turns: int = 2,
    ids: int = 6,
    env_id: str = "test/Env-v0",
    split: str = "train",
    seed: int = 0,
    group_id: str = "",
    error: str | None = None,
) -> Episode:
    """An episode whose turns repeat the growing history, as chats do."""
    made: list[Turn] = []
    history: tuple[int, ...] = ()
    messages: tuple[Message, ...] = ()
    for number in range(turns):
        text = observation if number == 0 else f"{observation}, step {number}"
        messages += (Message(speaker="user", parts=(Part(role=Role.OBSERVATION, text=text),)),)
        prompt = history + tuple(range(1000 * number, 1000 * number + ids))
        response = tuple(range(500 + 1000 * number, 500 + 1000 * number + max(1, ids // 6)))
        roles = (Role.OBSERVATION,) * len(prompt)
        made.append(
            Turn(
                observation=text,
                messages=messages,
                prompt_ids=prompt,
                prompt_roles=roles,
                response=f"<answer>go {number}</answer>",
                response_ids=response,
                response_roles=(Role.ACTION,) * len(response),
                logprobs=(-0.1234567890123,) * len(response),
                action=f"go {number}",
                reward=1.0 if success and number == turns - 1 else 0.0,
                terminated=number == turns - 1,
            )
        )
        history = prompt + response
        answer = Message(speaker="assistant", parts=(Part(role=Role.ACTION, text=f"go {number}"),), ids=response)
        messages += (answer,)
    task = Task(env_id=env_id, seed=seed, split=split)
    return Episode(
        id=name,
        task=task,
        turns=tuple(made),
        success=success,
        group_id=group_id,
        error=error,
        started_at=12.5,
    )
