"""Formats of an export: what one row of each holds. All are generators over episodes, so that nothing piles up."""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from agentkit.errors import ConfigError
from agentkit.memory.log import EpisodeLog
from agentkit.memory.records import Episode, Turn
from agentkit.training.pairs import labelled_turns, preference_pairs
from agentkit.training.rows import build_rows

Rows = Iterator[tuple[str, Any]]
"""(split, row); a row is a line of text, or a value for each column."""


@dataclass(frozen=True, slots=True)
class Format:
    """One way to write episodes."""

    rows: Callable[[Iterable[Episode], EpisodeLog], Rows]
    """The rows of some episodes of a log, in their order."""
    columns: dict[str, Any] | None
    """Type of each column of a parquet file: a name that pyarrow knows, [type of the items], {field: type}; None for
    lines of text."""
    keeps_failed: bool
    """Whether attempts with an `error` are written."""
    lacking: str
    """Why there may be no row: what the episodes lack."""


def lines_of(episodes: Iterable[Episode], log: EpisodeLog) -> Rows:
    """An episode a line, nothing left out: what `EpisodeLog.import_jsonl` reads."""
    for episode in episodes:
        yield episode.task.split, episode.model_dump_json()


def token_rows(episodes: Iterable[Episode], log: EpisodeLog) -> Rows:
    """A training row a row: the sequences the trainer would learn from, token for token.

    Raises:
        ConfigError: A turn has no token ids.
    """
    for episode in episodes:
        bare = next((n for n, turn in enumerate(episode.turns) if not turn.prompt_ids or not turn.response_ids), None)
        if bare is not None:
            raise ConfigError(
                f"turn {bare} of episode {episode.id!r} (policy {episode.policy!r}) has no token ids, which format "
                "'datasets' needs; record with a policy that reports them, or export as 'trl-sft' or 'jsonl'"
            )
        for number, row in enumerate(build_rows([episode])[0]):
            last = episode.turns[row.turns[row.sampled][-1]]  # a row is the prompt and the response of its last turn
            yield (
                episode.task.split,
                {
                    **_about(episode),
                    "row": number,
                    "input_ids": row.ids,
                    "mask": row.sampled,
                    "roles": np.frombuffer(bytes((*last.prompt_roles, *last.response_roles)), np.int8),
                    "logprobs": row.logprobs,
                    "turns": np.where(row.sampled, row.turns, -1),
                    "rewards": [turn.reward for turn in episode.turns],
                    "valid": [turn.valid for turn in episode.turns],
                },
            )


def prompt_completion_rows(episodes: Iterable[Episode], log: EpisodeLog) -> Rows:
    """A turn a row: TRL's conversational prompt and completion."""
    for episode in episodes:
        for number, turn in enumerate(episode.turns):
            row: dict[str, Any] = {"prompt": _chat(turn, episode), "completion": _answer(turn)}
            yield episode.task.split, row | {"valid": turn.valid, "episode_id": episode.id, "turn": number}


def preference_rows(episodes: Iterable[Episode], log: EpisodeLog) -> Rows:
    """A pair of `preference_pairs` a row. The first pass keeps an id an episode, the second a group."""
    groups: dict[bytes, list[tuple[str, bool]]] = defaultdict(list)
    for episode in episodes:
        key = _digest(json.dumps([episode.task.key, episode.group_id]))
        groups[key].append((episode.id, episode.success))
    for members in groups.values():
        if len({success for _, success in members}) < 2:
            continue
        attempts = [attempt for id, _ in members if (attempt := log.get(id)) is not None]
        for pair in preference_pairs(attempts):
            row: dict[str, Any] = {"prompt": _chat(pair.chosen, pair.better), "chosen": _answer(pair.chosen)}
            row |= {"rejected": _answer(pair.rejected)}
            about = {"chosen_id": pair.better.id, "rejected_id": pair.worse.id, "turn": pair.turn}
            yield pair.better.task.split, row | about


def unpaired_rows(episodes: Iterable[Episode], log: EpisodeLog) -> Rows:
    """A turn of `labelled_turns` a row: TRL's prompt, completion and label."""
    for episode in episodes:
        for turn, good in labelled_turns([episode]):
            row: dict[str, Any] = {"prompt": _chat(turn, episode), "completion": _answer(turn)}
            yield episode.task.split, row | {"label": good, "episode_id": episode.id}


def verl_rows(episodes: Iterable[Episode], log: EpisodeLog) -> Rows:
    """A task a row: its first prompt and its name, for verl to play anew.

    verl's docs/preparation/prepare_data.rst (of 2025-02-09) asks for these five columns. `ground_truth` is the task's
    key, from which a reward function can make the environment again.
    """
    known: set[bytes] = set()
    index: Counter[str] = Counter()
    for episode in episodes:
        task, key = episode.task, _digest(episode.task.key)
        if key in known or not episode.turns:
            continue
        known.add(key)
        extra = {"split": task.split, "index": index[task.split], "seed": task.seed, "episode_id": episode.id}
        index[task.split] += 1
        yield (
            task.split,
            {
                "data_source": task.env_id,
                "prompt": _chat(episode.turns[0], episode),
                "ability": "agent",
                "reward_model": {"style": "rule", "ground_truth": task.key},
                "extra_info": extra | {"params": json.dumps(task.params, sort_keys=True), "goal": task.goal},
            },
        )


def round_trip(tokenizer: Any, episodes: Iterable[Episode]) -> tuple[int, int]:
    """(turns whose recorded ids come back from their text, turns with ids): what the text formats keep of the tokens.

    Whoever reads text applies the chat template and tokenises anew. A sampled answer may be split into other tokens
    than the tokenizer would choose, and a template may add to a prompt or cut from it.
    """
    same = total = 0
    for episode in episodes:
        for turn in episode.turns:
            if turn.prompt_ids and turn.response_ids:
                chat = _chat(turn, episode)
                prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
                whole = tokenizer.apply_chat_template([*chat, *_answer(turn)], return_dict=False)
                ids = (*turn.prompt_ids, *turn.response_ids)
                total += 1
                same += tuple(prompt) == turn.prompt_ids and tuple(whole[: len(ids)]) == ids
    return same, total


def _chat(turn: Turn, episode: Episode) -> list[dict[str, str]]:
    if not turn.messages:
        raise ConfigError(
            f"episode {episode.id!r} (policy {episode.policy!r}) has a turn without messages, so its prompt cannot be "
            "written as a conversation; export it as 'datasets' or 'jsonl'"
        )
    if any(message.pictures for message in turn.messages):
        raise ConfigError(f"episode {episode.id!r} shows pictures, which only format 'jsonl' can hold; select others")
    return [{"role": message.speaker, "content": message.text} for message in turn.messages]


def _answer(turn: Turn) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": turn.response}]


def _about(episode: Episode) -> dict[str, Any]:
    task = episode.task
    names = ("attempt", "group_id", "policy", "policy_version", "memory_snapshot", "parent_id", "parent_turn")
    about = {"episode_id": episode.id, "env_id": task.env_id, "split": task.split, "seed": task.seed}
    about |= {"params": json.dumps(task.params, sort_keys=True)} | {name: getattr(episode, name) for name in names}
    return about | {"success": episode.success, "episode_return": episode.episode_return}


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


_CHAT = [{"role": "string", "content": "string"}]
_ABOUT = {
    **dict.fromkeys(("episode_id", "env_id", "split"), "string"),
    "seed": "int64",
    "params": "string",
    "attempt": "int32",
    **dict.fromkeys(("group_id", "policy"), "string"),
    "policy_version": "int64",
    **dict.fromkeys(("memory_snapshot", "parent_id"), "string"),
    "parent_turn": "int32",
    "success": "bool_",
    "episode_return": "float64",
}
_TOKENS = {
    "row": "int32",
    "input_ids": ["int32"],
    "mask": ["bool_"],
    "roles": ["int8"],
    "logprobs": ["float32"],
    "turns": ["int32"],
    "rewards": ["float64"],
    "valid": ["bool_"],
}
_UNPAIRED = {"prompt": _CHAT, "completion": _CHAT, "label": "bool_", "episode_id": "string"}
_COMPLETION = {"prompt": _CHAT, "completion": _CHAT, "valid": "bool_", "episode_id": "string", "turn": "int32"}
_PAIRS = {
    **dict.fromkeys(("prompt", "chosen", "rejected"), _CHAT),
    **dict.fromkeys(("chosen_id", "rejected_id"), "string"),
    "turn": "int32",
}
_VERL = {
    "data_source": "string",
    "prompt": _CHAT,
    "ability": "string",
    "reward_model": {"style": "string", "ground_truth": "string"},
    "extra_info": {
        "split": "string",
        "index": "int64",
        "seed": "int64",
        "episode_id": "string",
        "params": "string",
        "goal": "string",
    },
}
_NO_TURNS = "have no turns that were played to the end"
_NO_PAIRS = "hold no success and failure of one task and group that began alike; collect several attempts a task"

FORMATS = {
    "jsonl": Format(lines_of, None, True, _NO_TURNS),
    "datasets": Format(token_rows, _ABOUT | _TOKENS, False, _NO_TURNS),
    "trl-sft": Format(prompt_completion_rows, _COMPLETION, False, _NO_TURNS),
    "trl-preference": Format(preference_rows, _PAIRS, False, _NO_PAIRS),
    "trl-unpaired": Format(unpaired_rows, _UNPAIRED, False, _NO_TURNS),
    "verl": Format(verl_rows, _VERL, False, _NO_TURNS),
}
"""Format by name."""
