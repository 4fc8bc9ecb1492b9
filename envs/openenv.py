"""OpenEnv: a session on an OpenEnv server, played in text.

An OpenEnv server promises an observation, a reward and `done`; it knows no splits, attempts, success or rules in
words. What stands in for those is said in docs/environments/wrappers.md.
"""

from __future__ import annotations

import hashlib
import json
from math import isfinite
from typing import Any

from agentkit.envs.contract import TextEnv
from agentkit.envs.openenv_session import Answer, Refusal, Session
from agentkit.errors import ConfigError, EnvironmentFault
from agentkit.task import HELD_OUT_OFFSET

SAMPLES = {"string": "hello", "integer": 0, "number": 0.0, "boolean": True, "array": [], "object": {}}
"""JSON type -> a value of it, for examples of actions."""
SIMPLE = ("string", "integer", "number", "boolean")
"""JSON types of which a value can be written as bare text."""
LONGEST_DESCRIPTION = 200
"""Characters of a field's description that players are shown."""


class OpenEnv(TextEnv):
    """An environment on an OpenEnv server (openenv-core 0.3); one action a turn.

    The server's words reach the player as observations and as descriptions of an action's fields, and are nothing
    but text here. Episodes repeat as far as the server's environment heeds the seed that its reset is given.
    """

    def __init__(
        self,
        *,
        url: str,
        action_field: str | None = None,
        text_field: str | None = None,
        legal_field: str | None = None,
        rules: str = "",
        reset_params: dict[str, Any] | None = None,
        success_reward: float = 1.0,
        max_turns: int = 20,
        connect_s: float = 10.0,
        answer_s: float = 60.0,
        max_mb: float = 16.0,
    ) -> None:
        """Ask the server what its actions look like.

        Args:
            url: address of the server, such as `http://127.0.0.1:8000`.
            action_field: field of the action that takes the turn's text, read as what the schema says it is. None:
                the only field if there is just one and it is a text, number or truth value, else the turn's text
                is the whole action as a JSON object.
            text_field: field of the observation that is shown; None shows all of it as JSON.
            legal_field: field of the observation that lists the actions that are possible now, if it has one.
            rules: what the player is told about the environment.
            reset_params: further arguments of the environment's own reset, besides `seed` and `episode_id`.
            success_reward: an episode that the server ends is a success if its rewards add up to this.
            max_turns: turns in an episode.
            connect_s: seconds to wait for a connection.
            answer_s: seconds to wait for an answer to a reset or an action.
            max_mb: longest answer in megabytes.

        Raises:
            ConfigError: an argument is malformed, or the action has no such field.
            EnvironmentFault: no OpenEnv server answers there.
        """
        super().__init__(max_turns=max_turns, max_actions=max_turns, max_actions_per_turn=1)
        limits = {"connect_s": connect_s, "answer_s": answer_s, "max_mb": max_mb}
        for name, value in {**limits, "success_reward": success_reward}.items():
            number = isinstance(value, (int, float)) and not isinstance(value, bool) and isfinite(value)
            if not number or (name in limits and value <= 0):
                raise ConfigError(f"{name} must be a {'positive ' if name in limits else ''}number, got {value!r}")
        self._session = Session(url, connect_s=connect_s, answer_s=answer_s, max_bytes=int(max_mb * 1_000_000))
        schema = self._session.action_schema()
        self._fields = {name: kind for name, kind in _table(schema, "properties").items() if name != "metadata"}
        self._required = [name for name in schema.get("required") or () if name in self._fields]
        self.action_field = _field(action_field, self._fields)
        self.text_field, self.legal_field = text_field, legal_field
        self.reset_params = dict(reset_params or {})
        self.success_reward = float(success_reward)
        self.example = self._sample()
        self.instructions = self._told(rules)
        self._instance = ("train", 0)
        self._now = Answer({}, 0.0, False)
        self._return = 0.0
        self._refused = False

    def close(self) -> None:
        """End the session."""
        self._session.close()

    def _begin(self, split: str, seed: int, attempt: int) -> None:
        # The usual seeds of both splits reach the server as they are; no seed is in both.
        number = seed % HELD_OUT_OFFSET + (HELD_OUT_OFFSET if split == "held_out" else 0)
        self._instance, self._return, self._refused = (split, number), 0.0, False
        episode = {"seed": number, "episode_id": f"{split}-{number}-{attempt}"}
        self._now = self._session.reset({**self.reset_params, **episode})
        if self._now.done:
            raise EnvironmentFault(f"OpenEnv server {self._session.url}: the episode is over when it begins")

    def _pieces(self, text: str) -> list[str]:
        return [text.strip()] if text.strip() else []

    def _parse(self, text: str) -> dict[str, Any] | None:
        if self.action_field is None:
            try:
                action = json.loads(text)
            except (ValueError, RecursionError):
                return None
            return action if isinstance(action, dict) else None
        value = _value(text, _type(self._fields[self.action_field]))
        return None if value is None else {self.action_field: value}

    def _act(self, action: dict[str, Any]) -> tuple[float, str]:
        self._refused = False
        try:
            self._now = self._session.step(action)
        except Refusal as refusal:
            self._refused = True
            return 0.0, f"Not accepted: {refusal}; write for example: {self.example}"
        self._return += self._now.reward
        return self._now.reward, ""

    def _info(self, valid: bool) -> dict[str, Any]:
        return super()._info(valid and not self._refused)  # the server is the one that knows the grammar

    def _observe(self) -> str:
        return _text(self._now.observation if self.text_field is None else self._part(self.text_field))

    def _outcome(self) -> bool | None:
        return self._return >= self.success_reward if self._now.done else None

    def _state_key(self) -> str:
        state = json.dumps([*self._instance, self._now.observation], sort_keys=True)
        return hashlib.blake2b(state.encode(), digest_size=8).hexdigest()

    def _admissible(self) -> list[str]:
        legal = self._part(self.legal_field) if self.legal_field is not None else None
        return [_text(one) for one in legal] if isinstance(legal, list) and legal else [self.example]

    def _part(self, field: str) -> Any:
        if field in self._now.observation:
            return self._now.observation[field]
        raise EnvironmentFault(
            f"OpenEnv server {self._session.url}: the observation has no field {field!r}, "
            f"only {', '.join(map(repr, self._now.observation)) or 'none'}"
        )

    def _sample(self) -> str:
        if self.action_field is not None:
            return _text(_some(self._fields[self.action_field]))
        return json.dumps({name: _some(self._fields[name]) for name in self._required})

    def _told(self, rules: str) -> str:
        shown = [self.action_field] if self.action_field is not None else list(self._fields)
        fields = "; ".join(_described(name, self._fields[name], name in self._required) for name in shown)
        form = "the value of" if self.action_field is not None else "a JSON object with"
        how = f"Write one action a turn: {form} {fields}. For example: {self.example}"
        return f"{rules}\n{how}\nYou have {self.max_turns} turns.".strip()


def _table(schema: Any, key: str) -> dict[str, Any]:
    table = schema.get(key) if isinstance(schema, dict) else None
    return table if isinstance(table, dict) else {}


def _type(schema: Any) -> str:
    """JSON type of a field; of a choice of types the first that is not null; "" if it says none."""
    schema = schema if isinstance(schema, dict) else {}
    choices = [_type(one) for one in schema.get("anyOf") or ()]
    if isinstance(schema.get("type"), str):
        choices = [schema["type"]]
    return next((kind for kind in choices if kind not in ("null", "")), "")


def _field(given: str | None, fields: dict[str, Any]) -> str | None:
    if given is None:
        names = list(fields)
        return names[0] if len(names) == 1 and _type(fields[names[0]]) in SIMPLE else None
    if given not in fields or _type(fields[given]) not in SIMPLE:
        known = ", ".join(f"{name!r} ({_type(kind) or 'of no type'})" for name, kind in fields.items()) or "none"
        raise ConfigError(f"the action has no field {given!r} that a text can be put into; it has {known}")
    return given


def _value(text: str, kind: str) -> Any:
    """`text` as a JSON value of that type; None if it is none."""
    if kind == "string":
        return text
    try:
        value = json.loads(text.lower())
    except (ValueError, RecursionError):
        return None
    if kind == "boolean":
        return value if isinstance(value, bool) else None
    number = isinstance(value, int) or (kind == "number" and isinstance(value, float) and isfinite(value))
    return value if number and not isinstance(value, bool) else None


def _some(schema: Any) -> Any:
    """A value that may fit a field."""
    schema = schema if isinstance(schema, dict) else {}
    for key in ("enum", "examples"):
        if isinstance(schema.get(key), list) and schema[key]:
            return schema[key][0]
    return schema.get("const", schema.get("default", schema.get("minimum", SAMPLES.get(_type(schema), {}))))


def _described(name: str, schema: Any, required: bool) -> str:
    words = schema.get("description") if isinstance(schema, dict) else None
    told = " ".join(str(words).split())[:LONGEST_DESCRIPTION] if words else ""
    parts = [_type(schema), "" if required else "optional", told]
    return f"{name!r} ({', '.join(part for part in parts if part)})"


def _text(value: Any) -> str:
    """A text as it stands, anything else as JSON; halves of characters, which JSON may hold, become U+FFFD."""
    words = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return words.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
