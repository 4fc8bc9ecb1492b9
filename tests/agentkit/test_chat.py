"""ChatPolicy against a real HTTP server on this machine."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from agentkit.envs import make_tasks
from agentkit.errors import PolicyFault
from agentkit.memory import Message, Part, Picture, Role
from agentkit.policies import ChatPolicy, Completion, Request, Sampling
from agentkit.rollout import collect

Answer = Callable[[dict[str, Any]], tuple[int, Any]]


class Server:
    """Answers each request with what `answer` makes of its body, and keeps the bodies."""

    def __init__(self) -> None:
        self.answer: Answer = lambda body: (200, reply("<think></think><answer>Up</answer>"))
        self.bodies: list[dict[str, Any]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.bodies.append({"path": self.path, "key": self.headers["Authorization"], **body})
                status, content = outer.answer(body)
                payload = content if isinstance(content, bytes) else json.dumps(content).encode()
                self.send_response(status)
                self.send_header("Content-Type", "text/html" if isinstance(content, bytes) else "application/json")
                self.send_header("Content-Length", str(len(payload)))
                self.send_header("Retry-After-Ms", "1")
                self.end_headers()
                self.wfile.write(payload)

            def log_message(self, *_: Any) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_port}/v1"
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


def reply(content: str | None, finish: str = "stop") -> dict[str, Any]:
    message = {"role": "assistant", "content": content}
    choice = {"index": 0, "finish_reason": finish, "message": message}
    return {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}


class NoWorld:
    admissible_actions = ()
    state_key = ""

    async def expert_action(self) -> str:
        raise NotImplementedError


def ask(policy: ChatPolicy) -> Completion:
    messages = (
        Message(speaker="system", parts=(Part(role=Role.SYSTEM, text="Rules."),)),
        Message(speaker="user", parts=(Part(role=Role.MEMORY, text="m "), Part(role=Role.OBSERVATION, text="o"))),
    )
    sampling = Sampling(temperature=0.7, max_new_tokens=33)
    request = Request(messages=messages, sampling=sampling, seed=(1 << 40) + 5, world=NoWorld())
    return asyncio.run(policy.complete(request))


def test_the_answer_comes_back_and_the_request_says_all(server: Server) -> None:
    policy = ChatPolicy("small", base_url=server.url, api_key="secret")
    assert ask(policy) == Completion("<think></think><answer>Up</answer>")
    (body,) = server.bodies
    assert body["path"] == "/v1/chat/completions"
    assert body["key"] == "Bearer secret"
    assert (body["model"], body["temperature"], body["max_tokens"], body["seed"]) == ("small", 0.7, 33, 5)
    assert body["messages"] == [{"role": "system", "content": "Rules."}, {"role": "user", "content": "m o"}]


def test_a_cut_answer_says_so_and_no_content_is_an_empty_text(server: Server) -> None:
    policy = ChatPolicy("m", base_url=server.url)
    server.answer = lambda body: (200, reply("<think>", "length"))
    assert ask(policy) == Completion("<think>", finish="length")
    server.answer = lambda body: (200, reply(None))
    assert ask(policy) == Completion("")


def test_server_errors_are_retried(server: Server) -> None:
    server.answer = lambda body: (500, {"error": "busy"}) if len(server.bodies) < 3 else (200, reply("late"))
    assert ask(ChatPolicy("m", base_url=server.url, max_retries=2)).text == "late"
    assert len(server.bodies) == 3


def test_errors_that_stay_name_the_address_and_the_way_out(server: Server) -> None:
    server.answer = lambda body: (500, {"error": {"message": "out of order"}})
    with pytest.raises(
        PolicyFault, match=r"'m' at http://127.0.0.1:.*out of order.*Check that the server runs"
    ) as caught:
        ask(ChatPolicy("m", base_url=server.url, max_retries=1))
    assert server.url in str(caught.value)
    assert caught.value.__cause__ is not None
    assert len(server.bodies) == 2


def test_a_refused_connection_names_the_address() -> None:
    server = Server()
    server.close()
    with pytest.raises(PolicyFault, match=f"'m' at {server.url}/ gave no answer"):
        ask(ChatPolicy("m", base_url=server.url, max_retries=0))


def test_a_server_that_is_silent_is_given_up(server: Server) -> None:
    def slow(body: dict[str, Any]) -> tuple[int, Any]:
        time.sleep(0.6)
        return 200, reply("late")

    server.answer = slow
    with pytest.raises(PolicyFault, match="timed out"):
        ask(ChatPolicy("m", base_url=server.url, timeout_s=0.1, max_retries=0))


@pytest.mark.parametrize(
    "content",
    [
        {**reply("x"), "choices": []},
        {**reply("x"), "choices": None},
        {"unexpected": True},
        b"<html>Welcome</html>",
        {**reply("x"), "choices": [{"index": 0, "finish_reason": "stop", "message": None}]},
    ],
)
def test_an_answer_without_a_choice_is_a_fault_that_names_the_address(server: Server, content: Any) -> None:
    server.answer = lambda body: (200, content)
    with pytest.raises(PolicyFault, match=f"'m' at {server.url}/ answered without a choice; check"):
        ask(ChatPolicy("m", base_url=server.url, max_retries=0))


def test_without_key_or_address_the_error_says_what_to_set(monkeypatch: pytest.MonkeyPatch, server: Server) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with pytest.raises(PolicyFault, match="set OPENAI_API_KEY, or give base_url="):
        ChatPolicy("m")
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    assert ask(ChatPolicy("m")).text == "<think></think><answer>Up</answer>"


def test_one_policy_serves_several_collections(server: Server) -> None:
    policy = ChatPolicy("m", base_url=server.url)
    tasks = make_tasks("agentkit/FrozenLake-v0", num=3)
    for _ in range(3):
        episodes = collect(policy, tasks)
        assert [episode.error for episode in episodes] == [None] * 3
    assert episodes[0].policy == "m"
    assert episodes[0].turns[0].response_ids == ()


def test_a_failing_server_fails_the_episodes_and_not_the_collection(server: Server) -> None:
    server.answer = lambda body: (404, {"error": {"message": "no such model"}})
    episodes = collect(ChatPolicy("m", base_url=server.url), make_tasks("agentkit/FrozenLake-v0", num=2))
    for episode in episodes:
        assert not episode.success
        assert "no such model" in (episode.error or "")


def test_a_picture_travels_between_the_texts_as_a_data_url(server: Server) -> None:
    parts = (
        Part(role=Role.MEMORY, text="before"),
        Part(role=Role.OBSERVATION, text="seen"),
        Picture(role=Role.OBSERVATION, png=b"\x89PNG"),
    )
    request = Request(
        messages=(Message(speaker="system", parts=parts[:1]), Message(speaker="user", parts=parts)),
        sampling=Sampling(),
        seed=1,
        world=NoWorld(),
    )
    asyncio.run(ChatPolicy("m", base_url=server.url).complete(request))
    system, user = server.bodies[0]["messages"]
    assert system["content"] == "before"
    assert user["content"] == [
        {"type": "text", "text": "before"},
        {"type": "text", "text": "seen"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw=="}},
    ]
