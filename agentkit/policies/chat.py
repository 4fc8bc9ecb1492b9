"""ChatPolicy: any OpenAI-compatible endpoint through the `openai` client. It acts and collects; it is not trained."""

from __future__ import annotations

import asyncio
import base64
import os
from typing import Any

from agentkit.errors import PolicyFault
from agentkit.memory.records import Message, Picture
from agentkit.policies.policy import Completion, Request


class ChatPolicy:
    """A hosted chat model.

    Args:
        model: The endpoint's name of the model.
        base_url: Address of the endpoint; None takes `OPENAI_BASE_URL`, or the client's default.
        api_key: Key; None takes `OPENAI_API_KEY`. Servers that need none are given a placeholder.
        timeout_s: Seconds before one request is given up.
        max_retries: Retries of a request after a connection error, a 429 or a 5xx, with back-off.
    """

    version = 0

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        timeout_s: float = 60.0,
        max_retries: int = 2,
    ) -> None:
        base_url = base_url or os.environ.get("OPENAI_BASE_URL")
        if base_url and not api_key and not os.environ.get("OPENAI_API_KEY"):
            api_key = "none-needed"
        if not base_url and not api_key and not os.environ.get("OPENAI_API_KEY"):
            raise PolicyFault("no API key: set OPENAI_API_KEY, or give base_url= for a server that needs none")
        self.name = model
        self._options: dict[str, Any] = {
            "base_url": base_url,
            "api_key": api_key,
            "timeout": timeout_s,
            "max_retries": max_retries,
        }
        self._connected: tuple[asyncio.AbstractEventLoop, Any] | None = None

    def _client(self) -> Any:
        """The client of the running event loop: connections cannot move to another, and each `collect` has its own."""
        from openai import AsyncOpenAI

        loop = asyncio.get_running_loop()
        if self._connected is None or self._connected[0] is not loop:
            self._connected = loop, AsyncOpenAI(**self._options)
        return self._connected[1]

    async def complete(self, request: Request) -> Completion:
        """Ask the endpoint. Raises `PolicyFault` naming the address and the model."""
        from openai import OpenAIError

        client = self._client()
        messages: Any = [{"role": message.speaker, "content": _content(message)} for message in request.messages]
        try:
            reply = await client.chat.completions.create(
                model=self.name,
                messages=messages,
                temperature=request.sampling.temperature,
                max_tokens=request.sampling.max_new_tokens,
                seed=request.seed % (1 << 31),
            )
        except (OpenAIError, ValueError) as error:
            raise PolicyFault(
                f"{self.name!r} at {client.base_url} gave no answer: {error}. Check that the server "
                "runs, that it serves this model, and the key"
            ) from error
        choices = getattr(reply, "choices", None)
        if not choices or choices[0].message is None:
            raise PolicyFault(
                f"{self.name!r} at {client.base_url} answered without a choice; check that the address is that of "
                "an OpenAI-compatible API (it mostly ends in /v1)"
            )
        choice = choices[0]
        return Completion(choice.message.content or "", finish="length" if choice.finish_reason == "length" else "stop")


def _content(message: Message) -> str | list[dict[str, Any]]:
    """A message as the API wants it: one text, or texts and pictures (as data URLs) in their order."""
    if not message.pictures:
        return message.text
    content: list[dict[str, Any]] = []
    for part in message.parts:
        if isinstance(part, Picture):
            url = "data:image/png;base64," + base64.b64encode(part.png).decode("ascii")
            content.append({"type": "image_url", "image_url": {"url": url}})
        elif part.text:
            content.append({"type": "text", "text": part.text})
    return content
