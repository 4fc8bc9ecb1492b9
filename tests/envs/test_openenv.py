"""OpenEnv: episodes on a real server, and every way in which a server can fail.

The server below speaks the protocol of openenv-core 0.3.0 as recorded from its own server: `/schema` over HTTP and
`/ws` as a WebSocket. A reset and a step answer `{"type": "observation", "data": {"observation", "reward", "done"}}`,
an action that does not fit the schema gives VALIDATION_ERROR and the session goes on, an exception in the environment
gives EXECUTION_ERROR, and a full server accepts the connection, says CAPACITY_REACHED and closes it.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.sync.server import ServerConnection, serve

from agentkit.envs import Task, check_text_env, make_env, make_tasks
from agentkit.errors import ConfigError, EnvironmentFault
from agentkit.policies import ScriptedPolicy, as_response
from agentkit.rollout import collect
from agentkit.task import HELD_OUT_OFFSET

ID = "agentkit/OpenEnv-v0"
Play = Callable[[Any, dict[str, Any]], dict[str, Any]]
"""(session's state, message) -> what the server answers; may raise `ValueError` (in the environment)."""
ECHO_SCHEMA = {
    "additionalProperties": False,
    "properties": {
        "metadata": {"additionalProperties": True, "title": "Metadata", "type": "object"},
        "message": {"description": "Message to echo back", "maxLength": 60, "title": "Message", "type": "string"},
    },
    "required": ["message"],
    "title": "EchoAction",
    "type": "object",
}


def observed(observation: dict[str, Any], reward: float | None = 0.0, done: bool = False) -> dict[str, Any]:
    """The answer that carries an observation."""
    return {"type": "observation", "data": {"observation": observation, "reward": reward, "done": done}}


def failed(code: str, message: str, **more: Any) -> dict[str, Any]:
    """The answer that carries an error."""
    return {"type": "error", "data": {"message": message, "code": code, **more}}


def echo(state: dict[str, Any], message: dict[str, Any]) -> dict[str, Any]:
    """The environment of openenv-core's template: says what it hears, 0.1 a character; `stop` ends the episode."""
    data = message["data"]
    if message["type"] == "reset":
        state.update(data)
        return observed({"echoed_message": f"ready {data['seed']}", "message_length": 0})
    words = data.get("message")
    if words is None or len(data) > 1:
        errors = [{"type": "missing", "loc": ["message"], "msg": "Field required", "input": data}]
        return failed("VALIDATION_ERROR", "Invalid message", errors=errors)
    if len(words) > 60:
        errors = [{"type": "string_too_long", "loc": ["message"], "msg": "String should have at most 60 characters"}]
        return failed("VALIDATION_ERROR", "Invalid message", errors=errors)
    if words == "crash":
        raise ValueError("boom")
    return observed({"echoed_message": words, "message_length": len(words)}, 0.1 * len(words), words == "stop")


@contextmanager
def openenv_server(
    play: Play = echo, schema: Any = ECHO_SCHEMA, *, sessions: int = 8, port: int = 0
) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A running server; gives its address and the messages that it hears, in order.

    `play` may also answer a text, which is sent as it stands, or None, which closes the connection.
    """
    heard: list[dict[str, Any]] = []
    places = threading.Semaphore(sessions)

    def talk(connection: ServerConnection) -> None:
        if not places.acquire(blocking=False):
            words = f"Server at capacity: {sessions}/{sessions} sessions active. Cannot accept new connections."
            connection.send(json.dumps(failed("CAPACITY_REACHED", words, active_sessions=sessions)))
            return
        state: dict[str, Any] = {}
        try:
            for raw in connection:
                message = json.loads(raw)
                heard.append(message)
                if message["type"] == "close":
                    return
                try:
                    answer: Any = play(state, message)
                except ValueError as error:
                    answer = failed("EXECUTION_ERROR", str(error))
                if answer is None:
                    return
                connection.send(answer if isinstance(answer, str) else json.dumps(answer))
        except ConnectionClosed:
            return
        finally:
            places.release()

    def describe(connection: ServerConnection, request: Request) -> Response | None:
        if request.path == "/ws":
            return None
        found = request.path == "/schema"
        body = (schema if isinstance(schema, str) else json.dumps({"action": schema})) if found else "{}"
        return Response(200 if found else 404, "OK" if found else "Not Found", Headers(), body.encode())

    with serve(talk, "127.0.0.1", port, process_request=describe, close_timeout=1) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.socket.getsockname()[1]}", heard
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def playing(play: Play = echo, schema: Any = ECHO_SCHEMA, **params: Any) -> Iterator[Any]:
    """An environment on a server of its own."""
    with openenv_server(play, schema) as (url, _):
        env = make_env(ID, url=url, **params)
        try:
            yield env
        finally:
            env.close()


GUESS_SCHEMA = {
    "properties": {
        "low": {"type": "integer", "minimum": 1},
        "high": {"anyOf": [{"type": "null"}, {"type": "number"}], "description": "At most\n9."},
        "metadata": {"type": "object"},
    },
    "required": ["low"],
}


def guess(state: dict[str, Any], message: dict[str, Any]) -> dict[str, Any]:
    """Answers with the sum of the guesses; done at 7."""
    if message["type"] == "reset":
        state["sum"] = 0
    else:
        data = message["data"]
        if set(data) - {"low", "high"} or not isinstance(data.get("low"), int):
            return failed("VALIDATION_ERROR", "Invalid message", errors=[{"loc": ["low"], "msg": "Field required"}])
        state["sum"] += data["low"]
    return observed(
        {"sum": state["sum"], "moves": [1, {"low": 2}], "text": "täxt"}, float(state["sum"]), state["sum"] == 7
    )


def test_an_episode_is_played_over_one_session() -> None:
    with openenv_server() as (url, heard):
        env = make_env(ID, url=url, text_field="echoed_message", success_reward=0.6)
        assert env.instructions == (
            "Write one action a turn: the value of 'message' (string, Message to echo back). For example: hello\n"
            "You have 20 turns."
        )
        observation, info = env.reset(seed=3, options={"attempt": 2})
        assert (observation, info["admissible_actions"]) == ("ready 3", ["hello"])
        observation, reward, terminated, truncated, info = env.step(" hi || there ")  # one action, as it stands
        assert (observation, terminated, truncated, info["valid"]) == ("hi || there", False, False, True)
        assert reward == pytest.approx(1.1)
        observation, reward, terminated, _, info = env.step("stop")
        assert (observation, terminated, info["success"], info["admissible_actions"]) == ("stop", True, True, [])
        env.close()
    assert heard == [
        {"type": "reset", "data": {"seed": 3, "episode_id": "train-3-2"}},
        {"type": "step", "data": {"message": "hi || there"}},
        {"type": "step", "data": {"message": "stop"}},
        {"type": "close"},
    ]


def test_an_ended_episode_below_the_success_reward_is_lost() -> None:
    with playing(success_reward=0.5) as env:
        env.reset(seed=0)
        _, _, terminated, _, info = env.step("stop")
        assert (terminated, info["success"]) == (True, False)


def test_an_action_that_the_server_does_not_accept_is_not_valid_and_the_episode_goes_on() -> None:
    with playing(text_field="echoed_message") as env:
        _, before = env.reset(seed=0)
        observation, reward, _, _, info = env.step("x" * 61)
        assert observation == (
            "Not accepted: message: String should have at most 60 characters; write for example: hello\nready 0"
        )
        assert (reward, info["valid"], info["state_key"]) == (0.0, False, before["state_key"])
        observation, *_, info = env.step(" ")
        assert observation == "Not understood: ''; write for example: hello\nready 0"
        assert info["valid"] is False
        assert env.step("x")[4]["valid"] is True
        assert env.turns_left == 17


def test_several_fields_are_written_as_a_json_object() -> None:
    with playing(guess, GUESS_SCHEMA, rules="Sum up to 7.", legal_field="moves", reset_params={"level": 2}) as env:
        assert env.instructions.splitlines() == [
            "Sum up to 7.",
            "Write one action a turn: a JSON object with 'low' (integer); 'high' (number, optional, At most 9.). "
            'For example: {"low": 1}',
            "You have 20 turns.",
        ]
        observation, info = env.reset(seed=0)
        assert observation == '{"sum": 0, "moves": [1, {"low": 2}], "text": "täxt"}'
        assert info["admissible_actions"] == ["1", '{"low": 2}']
        for text in ("3", "[3]", '{"low": }', "{" * 5000):
            assert env.step(text)[4]["valid"] is False
        observation, *_, info = env.step('{"high": 1}')
        assert observation.startswith("Not accepted: low: Field required; write for example")
        assert info["valid"] is False
        assert env.step('{"low": 7}')[1:4] == (7.0, True, False)


def test_one_field_of_several_takes_the_text_as_its_type() -> None:
    with playing(guess, GUESS_SCHEMA, action_field="low", text_field="text") as env:
        assert env.example == "1"
        assert env.reset(seed=0)[0] == "täxt"
        assert [env.step(text)[4]["valid"] for text in ("3", "3.5", "three", "true", "{}", " 2 ")] == [
            True,
            False,
            False,
            False,
            False,
            True,
        ]


def test_the_splits_never_share_a_seed_and_tasks_send_theirs_as_it_is() -> None:
    with openenv_server() as (url, heard):
        env = make_env(ID, url=url)
        for split in ("train", "held_out"):
            (task,) = make_tasks(ID, split, first=5)
            for seed in (task.seed, 5, HELD_OUT_OFFSET + 5):
                env.reset(seed=seed, options={"split": split})
        env.close()
    seeds = [message["data"]["seed"] for message in heard if message["type"] == "reset"]
    assert seeds == [5, 5, 5, HELD_OUT_OFFSET + 5, HELD_OUT_OFFSET + 5, HELD_OUT_OFFSET + 5]


def test_halves_of_characters_in_server_texts_are_replaced() -> None:
    with playing(lambda state, message: observed({"t": "a\ud800b\ud83d\ude00"}), text_field="t") as env:
        observation, _ = env.reset(seed=0)
        assert observation == "a\ufffdb😀"
        observation.encode()


def test_the_contract_holds_where_actions_have_a_grammar() -> None:
    with openenv_server(guess, GUESS_SCHEMA, sessions=20) as (url, _):
        report = check_text_env(Task(env_id=ID, seed=0, params={"url": url, "max_turns": 6}), seeds=range(3))
    assert report.ok, str(report)


@settings(max_examples=40, deadline=None)
@given(texts=st.lists(st.text(max_size=70), min_size=1, max_size=4))
def test_any_text_gives_an_answer(texts: list[str]) -> None:
    with openenv_server() as (url, _):
        env = make_env(ID, url=url, text_field="echoed_message")
        env.reset(seed=0)
        for text in texts:
            if text.strip() in ("crash", "stop"):
                continue
            observation, _, terminated, _, info = env.step(text)
            assert terminated is False
            assert info["valid"] == (0 < len(text.strip()) <= 60)
            observation.encode()
        env.close()


def test_rollouts_play_on_the_server() -> None:
    with openenv_server() as (url, heard):
        tasks = make_tasks(ID, num=3, params={"url": url, "success_reward": 0.4})
        episodes = collect(ScriptedPolicy(lambda request: as_response("stop")), tasks)
        assert [(episode.error, episode.success) for episode in episodes] == [(None, True)] * 3
        assert sum(message["type"] == "close" for message in heard) == 3


# Faults


def begin_and_step(env: Any) -> None:
    """One turn."""
    env.reset(seed=0)
    env.step("hello")


def fault_of(play: Play, **params: Any) -> str:
    """What is said when the first turn goes wrong."""
    with playing(play, **params) as env, pytest.raises(EnvironmentFault) as caught:
        begin_and_step(env)
    assert str(caught.value).startswith("OpenEnv server http://127.0.0.1:")
    assert "\n" not in str(caught.value)
    return str(caught.value).partition(": ")[2]


def then(answer: Any) -> Play:
    """A server that resets well and answers a step so."""
    return lambda state, message: observed({"t": "hi"}) if message["type"] == "reset" else answer


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("no json", "no JSON object but 'no json'; it is no OpenEnv server of version 0.3"),
        ("[" * 100_000, "no JSON object but '[["),
        ("[1]", "no JSON object but '[1]'"),
        ('{"type": "state", "data": {}}', "no observation but {'type': 'state', 'data': {}}"),
        ('{"type": "observation"}', "no observation but {'type': 'observation'}"),
        ('{"type": "observation", "data": {}}', "an answer without observation, finite reward and done: {}"),
        (observed([]), "an answer without observation, finite reward and done: "),  # type: ignore[arg-type]
        (observed({}, float("nan")), "an answer without observation, finite reward and done: "),
        (observed({}, 10**400), "an answer without observation, finite reward and done: "),
        (observed({}, "1"), "an answer without observation, finite reward and done: "),  # type: ignore[arg-type]
        (observed({}, 1.0, 1), "an answer without observation, finite reward and done: "),  # type: ignore[arg-type]
        (failed("SESSION_ERROR", "gone\naway"), r"error SESSION_ERROR at step: 'gone\naway'; see the server's log"),
        (failed("EXECUTION_ERROR", "b" * 5000), "error EXECUTION_ERROR at step: 'bbb"),
        ({"type": "error", "data": {}}, "error None at step: None; see the server's log"),
        (None, "the session ended at step (received 1000 (OK)"),
    ],
)
def test_answers_that_break_the_protocol_are_named(answer: Any, words: str) -> None:
    told = fault_of(then(answer))
    assert told.startswith(words)
    assert len(told) < 450


def test_an_error_of_the_environment_is_named_with_its_words() -> None:
    with playing() as env:
        env.reset(seed=0)
        with pytest.raises(EnvironmentFault, match="error EXECUTION_ERROR at step: 'boom'; see the server's log"):
            env.step("crash")
        assert env.reset(seed=1)[0].startswith('{"echoed_message": "ready 1"')  # a new session


def test_a_reset_that_is_refused_is_a_fault() -> None:
    refusal = failed("VALIDATION_ERROR", "Invalid message", errors=[])
    assert fault_of(lambda state, message: refusal).startswith("error VALIDATION_ERROR at reset: 'Invalid message'")


def test_an_episode_that_is_over_when_it_begins_is_a_fault() -> None:
    assert fault_of(lambda state, message: observed({}, 0.0, True)) == "the episode is over when it begins"


def test_a_field_that_is_not_observed_is_named() -> None:
    assert fault_of(then(observed({})), text_field="text") == "the observation has no field 'text', only 't'"
    assert fault_of(then(observed({})), legal_field="x") == "the observation has no field 'x', only 't'"


def test_an_answer_that_is_too_long_is_not_read() -> None:
    told = fault_of(then(observed({"t": "x" * 3000})), max_mb=0.002)
    assert told == "its answer is over 2,000 bytes; raise max_mb if that is right"


def test_a_server_that_hangs_is_given_up() -> None:
    def slow(state: dict[str, Any], message: dict[str, Any]) -> dict[str, Any]:
        if message["type"] == "step":
            time.sleep(0.5)
        return observed({"said": message["type"]})

    with playing(slow, answer_s=0.1) as env:
        env.reset(seed=0)
        begun = time.monotonic()
        with pytest.raises(EnvironmentFault, match=r"no answer to step within 0.1 s; raise answer_s if it is slow"):
            env.step("hello")
        assert time.monotonic() - begun < 5
        assert env.reset(seed=0)[0] == '{"said": "reset"}'  # not the late answer to the step


def test_a_full_server_says_how_to_make_room() -> None:
    with openenv_server(sessions=1) as (url, _):
        first: Any = make_env(ID, url=url)
        second: Any = make_env(ID, url=url)
        first.reset(seed=0)
        with pytest.raises(EnvironmentFault, match=r"1/1 sessions active.*start it with a higher max_concurrent_envs"):
            second.reset(seed=0)
        second._session._connected()
        time.sleep(0.2)  # it has said so and hung up before it is asked for anything
        with pytest.raises(EnvironmentFault, match=r"1/1 sessions active"):
            second.reset(seed=0)
        first.close()
        assert second.reset(seed=0)[0].startswith('{"echoed_message"')
        second.close()


def test_a_server_that_dies_is_named_and_a_new_one_is_found() -> None:
    with openenv_server() as (url, _):
        env = make_env(ID, url=url)
        env.reset(seed=0)
    with pytest.raises(EnvironmentFault, match=r"the session ended at step .*see the server's log"):
        env.step("hello")
    with pytest.raises(EnvironmentFault, match=r"cannot be reached \(.*refused\); start the OpenEnv server"):
        env.reset(seed=0)
    with openenv_server(port=int(url.rpartition(":")[2])):
        assert env.reset(seed=0)[0].startswith('{"echoed_message"')
        env.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_server_that_is_not_there_is_named() -> None:
    with pytest.raises(EnvironmentFault, match=r"no answer to .*/schema \(.*refused.*\); start the OpenEnv server"):
        make_env(ID, url=f"http://127.0.0.1:{free_port()}")


def test_a_server_that_accepts_and_says_nothing_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(EnvironmentFault, match=r"no answer to .*timed out"):
            make_env(ID, url=url, connect_s=0.2)


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ("<html>", "no JSON object but b'<html>'"),
        ('{"observation": {}}', "describes no action; it is no OpenEnv server of version 0.3"),
        ('{"action": [3]}', "describes no action"),
        ("x" * 300_000, "its schema is longer than 200,000 bytes"),
    ],
)
def test_another_kind_of_server_is_recognised(schema: str, words: str) -> None:
    with openenv_server(schema=schema) as (url, _), pytest.raises(EnvironmentFault) as caught:
        make_env(ID, url=url, max_mb=0.2)
    assert words in str(caught.value)


def test_a_server_without_sessions_is_recognised() -> None:
    with openenv_server() as (url, _):
        with pytest.raises(EnvironmentFault, match=r"no answer to .*/other/schema \(HTTP Error 404: Not Found\)"):
            make_env(ID, url=f"{url}/other/")
        env: Any = make_env(ID, url=url.replace("http", "ws"))
        env._session._socket_url += "x"
        with pytest.raises(EnvironmentFault, match=r"/wsx is no OpenEnv session \(.*404.*\); correct the url"):
            env.reset(seed=0)


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"url": "127.0.0.1:8000"}, "url must be the address of a server such as"),
        ({"url": "file:///etc/passwd"}, "url must be the address of a server such as"),
        ({"url": "http://"}, "url must be"),
        ({"url": "http://[::1"}, "url must be"),
        ({"url": "http://x:99999"}, "url must be"),
        ({"url": 3}, "url must be"),
        ({}, "agentkit/OpenEnv-v0 needs the parameter 'url'"),
        ({"url": "http://x", "answer_s": 0}, "answer_s must be a positive number, got 0"),
        ({"url": "http://x", "max_mb": True}, "max_mb must be a positive number, got True"),
        ({"url": "http://x", "success_reward": "1"}, "success_reward must be a number, got '1'"),
        ({"url": "http://x", "max_turns": 0}, "max_turns must be a whole number of at least 1, got 0"),
    ],
)
def test_wrong_arguments_are_named(params: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_env(ID, **params)
    assert str(caught.value).startswith(words)


def test_an_action_field_that_is_not_there_is_named() -> None:
    with openenv_server(guess, GUESS_SCHEMA) as (url, _), pytest.raises(ConfigError) as caught:
        make_env(ID, url=url, action_field="guess")
    assert str(caught.value) == (
        "the action has no field 'guess' that a text can be put into; it has 'low' (integer), 'high' (number)"
    )
