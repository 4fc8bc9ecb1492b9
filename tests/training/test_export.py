"""Exports: what is written loads back and is what was recorded, and a failure leaves nothing behind."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from agentkit.errors import ConfigError, MissingExtraError, RecordError, UnknownNameError
from agentkit.memory import EpisodeLog
from agentkit.memory.records import Episode, Message, Part, Picture, Role
from agentkit.policies.policy import Sampling
from agentkit.rollout import collect
from agentkit.task import Task, make_tasks
from agentkit.training import export as module
from agentkit.training.export import FORMATS, Manifest, export_episodes
from agentkit.training.formats import round_trip
from agentkit.training.rows import build_rows

parquet = pytest.importorskip("pyarrow.parquet", reason="the extra trl is not installed")


@pytest.fixture(scope="module")
def log(parts, tmp_path_factory):
    """Five lakes played four times each, two of them held out, with tokens; one attempt that broke."""
    tasks = make_tasks(parts.LAKE, "train", 3, params=parts.PARAMS)
    tasks += make_tasks(parts.LAKE, "held_out", 2, params=parts.PARAMS)
    policy = parts.make_taught_policy()
    with EpisodeLog.open(tmp_path_factory.mktemp("log") / "episodes.sqlite") as log:
        played = collect(policy, tasks, group_size=4, sampling=Sampling(max_new_tokens=24), log=log)
        log.append(played[0].model_copy(update={"id": "broken", "error": "the world broke", "success": False}))
        yield log


def load(path: Path) -> list[dict]:
    return parquet.read_table(path).to_pylist()


def make_log(path, *episodes):
    log = EpisodeLog.open(path / "log.sqlite")
    log.append_many(episodes)
    return log


def said(name, response="Up", *, success=True, seed=0, split="train", group="g", reward=0.0, **changes):
    """An episode of one turn of chat without token ids."""
    from agentkit.memory.records import Turn

    system = Message(speaker="system", parts=(Part(role=Role.SYSTEM, text="Play."),))
    user = Message(
        speaker="user", parts=(Part(role=Role.MEMORY, text="m "), Part(role=Role.OBSERVATION, text=f"lake {seed}"))
    )
    values = {"observation": "", "messages": (system, user), "response": response, "reward": reward}
    task = Task(env_id="test/Env-v0", seed=seed, split=split, params={"size": 2}, goal="the goal")
    turn = Turn(**(values | changes))
    return Episode(id=name, task=task, group_id=group, turns=(turn,), success=success)


def test_token_rows_load_back_as_the_rows_the_trainer_learns_from(log, tmp_path):
    manifest = export_episodes(log, tmp_path / "out", format="datasets")
    episodes = [episode for episode in log.episodes() if episode.error is None]
    found = {name: load(tmp_path / "out" / name) for name in ("train.parquet", "test.parquet")}
    for name, split in (("train.parquet", "train"), ("test.parquet", "held_out")):
        of_split = [episode for episode in episodes if episode.task.split == split]
        rows = build_rows(of_split)[0]
        assert len(rows) == len(found[name]) == manifest.files[name].rows
        for row, loaded in zip(rows, found[name], strict=True):
            episode = of_split[row.episode]
            assert loaded["input_ids"] == row.ids.tolist()
            assert loaded["mask"] == row.sampled.tolist()
            assert np.array_equal(np.float32(loaded["logprobs"]), row.logprobs)
            sampled = np.flatnonzero(row.sampled)
            assert [loaded["roles"][i] for i in sampled] == row.roles[sampled].tolist()
            assert [loaded["turns"][i] for i in sampled] == row.turns[sampled].tolist()
            assert {loaded["turns"][i] for i in np.flatnonzero(~row.sampled)} == {-1}
            assert loaded["roles"][0] == episode.turns[0].prompt_roles[0]
            assert loaded["rewards"] == [turn.reward for turn in episode.turns]
            assert loaded["valid"] == [turn.valid for turn in episode.turns]
            about = (loaded["episode_id"], loaded["seed"], loaded["success"], loaded["episode_return"])
            assert about == (episode.id, episode.task.seed, episode.success, episode.episode_return)
            assert (loaded["group_id"], loaded["policy"]) == (episode.group_id, episode.policy)
            assert json.loads(loaded["params"]) == episode.task.params
    assert any(len(set(row["turns"])) > 2 for row in found["train.parquet"])  # turns joined to one row are among them


def test_datasets_finds_the_splits_of_a_folder_by_itself(log, tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True)
    manifest = export_episodes(log, tmp_path / "out", format="datasets")
    loaded = datasets.load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    assert {name: len(part) for name, part in loaded.items()} == {
        "train": manifest.files["train.parquet"].rows,
        "test": manifest.files["test.parquet"].rows,
    }
    assert loaded["train"][0] == load(tmp_path / "out" / "train.parquet")[0]


def test_lines_of_json_can_be_imported_again(log, tmp_path):
    manifest = export_episodes(log, tmp_path / "out", format="jsonl")
    assert manifest.episodes == manifest.rows == len(log) == 21
    assert manifest.failed == 1
    with EpisodeLog.open(tmp_path / "again.sqlite") as again:
        assert again.import_jsonl(tmp_path / "out" / "train.jsonl") == 13
        assert again.import_jsonl(tmp_path / "out" / "test.jsonl") == 8
        assert {episode.id: episode for episode in again.episodes()} == {one.id: one for one in log.episodes()}


def test_a_turn_becomes_a_prompt_and_a_completion(tmp_path):
    with make_log(tmp_path, said("one", "Up"), said("two", "Down", success=False, valid=False)) as log:
        export_episodes(log, tmp_path / "out", format="trl-sft")
        export_episodes(log, tmp_path / "unpaired", format="trl-unpaired")
    prompt = [{"role": "system", "content": "Play."}, {"role": "user", "content": "m lake 0"}]
    up, down = ([{"role": "assistant", "content": word}] for word in ("Up", "Down"))
    assert load(tmp_path / "out" / "train.parquet") == [
        {"prompt": prompt, "completion": up, "valid": True, "episode_id": "one", "turn": 0},
        {"prompt": prompt, "completion": down, "valid": False, "episode_id": "two", "turn": 0},
    ]
    assert load(tmp_path / "unpaired" / "train.parquet") == [
        {"prompt": prompt, "completion": up, "label": True, "episode_id": "one"},
        {"prompt": prompt, "completion": down, "label": False, "episode_id": "two"},
    ]


def test_pairs_are_of_one_group_wherever_it_lies_in_the_log(tmp_path):
    episodes = [
        said("won", "Up"),
        said("other", "Up", seed=1, group="h"),
        said("lost", "Down", success=False),
        said("alone", "Down", success=False, seed=1, group="i"),
    ]
    with make_log(tmp_path, *episodes) as log:
        export_episodes(log, tmp_path / "out", format="trl-preference")
    (row,) = load(tmp_path / "out" / "train.parquet")
    assert row["prompt"][-1] == {"role": "user", "content": "m lake 0"}
    assert [row[name][0]["content"] for name in ("chosen", "rejected")] == ["Up", "Down"]
    assert (row["chosen_id"], row["rejected_id"], row["turn"]) == ("won", "lost", 0)


def test_trl_knows_its_formats_in_the_files(log, tmp_path):
    """By TRL's own reading: conversational rows, tokenised without an error, the completion after the prompt."""
    data = pytest.importorskip("trl.data_utils")
    for format, keys in (
        ("trl-sft", {"prompt", "completion"}),
        ("trl-preference", {"prompt", "chosen", "rejected"}),
        ("trl-unpaired", {"prompt", "completion", "label"}),
    ):
        export_episodes(log, tmp_path / format, format=format)
        row = load(tmp_path / format / "train.parquet")[0]
        assert keys <= set(row)
        assert data.is_conversational(row)


def test_verl_gets_each_task_once(tmp_path):
    episodes = [
        said("one"),
        said("two", "Down"),
        said("three", seed=1),
        said("four", seed=5, split="held_out"),
    ]
    with make_log(tmp_path, *episodes) as log:
        manifest = export_episodes(log, tmp_path / "out", format="verl")
    assert {name: file.rows for name, file in manifest.files.items()} == {"train.parquet": 2, "test.parquet": 1}
    first, second = load(tmp_path / "out" / "train.parquet")
    assert first == {
        "data_source": "test/Env-v0",
        "prompt": [{"role": "system", "content": "Play."}, {"role": "user", "content": "m lake 0"}],
        "ability": "agent",
        "reward_model": {"style": "rule", "ground_truth": '["test/Env-v0","train",0,{"size":2}]'},
        "extra_info": {
            "split": "train",
            "index": 0,
            "seed": 0,
            "episode_id": "one",
            "params": '{"size": 2}',
            "goal": "the goal",
        },
    }
    assert (second["extra_info"]["index"], second["extra_info"]["seed"]) == (1, 1)


def test_the_manifest_counts_and_hashes_and_the_same_log_gives_the_same_bytes(log, tmp_path):
    for format in FORMATS:
        manifests = [export_episodes(log, tmp_path / f"{format}{i}", format=format) for i in range(2)]
        assert manifests[0] == manifests[1]
        folders = [tmp_path / f"{format}{i}" for i in range(2)]
        contents = [{path.name: path.read_bytes() for path in sorted(folder.iterdir())} for folder in folders]
        assert contents[0] == contents[1]
        assert Manifest.model_validate_json(contents[0].pop("manifest.json")) == manifests[0]
        assert set(contents[0]) == set(manifests[0].files)
        for name, file in manifests[0].files.items():
            assert file.sha256 == hashlib.sha256(contents[0][name]).hexdigest()
            assert file.bytes == len(contents[0][name])
        assert manifests[0].rows == sum(file.rows for file in manifests[0].files.values())
        assert (manifests[0].episodes, manifests[0].failed) == (21, 1)


def test_only_what_is_selected_is_written(log, tmp_path):
    won = [episode for episode in log.episodes(split="train") if episode.success]
    manifest = export_episodes(log, tmp_path / "out", format="jsonl", split="train", success=True)
    assert manifest.selected == {"split": "train", "success": True}
    assert [json.loads(line)["id"] for line in (tmp_path / "out" / "train.jsonl").open()] == [one.id for one in won]
    lost = export_episodes(log, tmp_path / "lost", format="jsonl", success=False)
    assert lost.episodes == log.count(success=False)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"format": "verll"}, UnknownNameError, "no format 'verll'; did you mean 'verl'?"),
        ({"format": "jsonl", "split": "test"}, UnknownNameError, "no split 'test'"),
        ({"format": "jsonl", "env_id": "test/Other-v0"}, ConfigError, "has no such episode; select less narrowly"),
        ({"format": "trl-preference", "success": True}, ConfigError, "a pair is a success and a failure; leave out"),
        ({"format": "trl-preference"}, ConfigError, "the 1 episodes selected of .* hold no success and failure of one"),
        ({"format": "datasets"}, ConfigError, r"turn 0 of episode 'one' \(policy ''\) has no token ids, which format"),
    ],
)
def test_what_cannot_be_exported_is_an_error_that_leaves_nothing(tmp_path, options, error, words):
    with make_log(tmp_path, said("one")) as log, pytest.raises(error, match=words):
        export_episodes(log, tmp_path / "exports" / "out", **options)
    assert not list(tmp_path.rglob("*out*"))


def test_turns_that_are_no_conversation_are_refused(parts, tmp_path):
    bare = parts.make_episode([parts.make_turn([1], [2])], "bare")
    message = Message(speaker="user", parts=(Picture(role=Role.OBSERVATION, png=b"png"),))
    seen = parts.make_episode([parts.make_turn([1], [2], messages=(message,))], "seen", format=2)
    for episode, words in ((bare, "'bare' .* has a turn without messages"), (seen, "'seen' shows pictures")):
        with EpisodeLog.open(tmp_path / f"{episode.id}.sqlite") as log:
            log.append(episode)
            with pytest.raises(ConfigError, match=words):
                export_episodes(log, tmp_path / "out", format="trl-sft")
            export_episodes(log, tmp_path / f"{episode.id}-tokens", format="datasets")


def test_attempts_that_all_broke_are_no_rows(tmp_path):
    broken = said("one").model_copy(update={"error": "the world broke"})
    with make_log(tmp_path, broken) as log:
        with pytest.raises(ConfigError, match="have no turns that were played to the end"):
            export_episodes(log, tmp_path / "out", format="trl-sft")
        assert export_episodes(log, tmp_path / "out", format="jsonl").rows == 1


def test_a_path_that_exists_is_left_as_it_is(log, tmp_path):
    for name, make in (("folder", Path.mkdir), ("file", Path.touch)):
        make(tmp_path / name)
        with pytest.raises(ConfigError, match=f"{name}' exists already; give a new folder, or remove it"):
            export_episodes(log, tmp_path / name, format="jsonl")
    assert (tmp_path / "file").read_bytes() == b""
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="link' exists already"):
        export_episodes(log, tmp_path / "link", format="jsonl")


@pytest.mark.parametrize("format", ["jsonl", "verl", "datasets"])
def test_a_damaged_episode_ends_the_export_and_nothing_is_left(parts, tmp_path, format):
    episodes = [
        parts.make_episode(
            [parts.make_turn([1], [2], messages=said("x").turns[0].messages)], str(i), group_id=str(i)
        ).model_copy(update={"task": Task(env_id="test/Env-v0", seed=i)})
        for i in range(300)
    ]
    make_log(tmp_path, *episodes).close()
    import sqlite3

    with sqlite3.connect(tmp_path / "log.sqlite") as database:
        database.execute("UPDATE episodes SET payload = x'00' WHERE id = '299'")
    with EpisodeLog.open(tmp_path / "log.sqlite") as log, pytest.raises(RecordError, match=r"'299' in .* is damaged"):
        export_episodes(log, tmp_path / "out", format=format)
    assert [path.name for path in tmp_path.iterdir() if "sqlite" not in path.name] == []


def test_a_folder_that_cannot_be_written_is_an_error(log, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RecordError, match=r"cannot export to .*: File exists; make room, or give another path"):
        export_episodes(log, tmp_path / "file" / "out", format="jsonl")


@pytest.mark.parametrize("format", ["jsonl", "datasets"])
def test_a_full_disk_ends_the_export_and_nothing_is_left(log, tmp_path, monkeypatch, format):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module._Lines if format == "jsonl" else module._Parquet, "write", full)
    with pytest.raises(RecordError, match=r"cannot export to .*: No space left on device; make room"):
        export_episodes(log, tmp_path / "out", format=format)
    assert list(tmp_path.iterdir()) == []


def test_without_the_extra_parquet_is_refused_by_name(log, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"'pyarrow' is not installed; run: pip install 'agentkit-rl\[trl\]'"):
        export_episodes(log, tmp_path / "out", format="verl")
    assert export_episodes(log, tmp_path / "out", format="jsonl").rows == 21


def test_memory_does_not_grow_with_the_log_and_torch_is_not_needed(parts, tmp_path):
    """In a fresh process the most memory of an export of 4,000 episodes is that of one of 1,000, but for a few MiB."""
    turn = parts.make_turn(range(200), range(200), messages=said("x").turns[0].messages)
    for num in (1000, 4000):
        with EpisodeLog.open(tmp_path / f"{num}.sqlite") as log:
            log.append_many(
                parts.make_episode([turn], str(i), task=Task(env_id="test/Env-v0", seed=i)) for i in range(num)
            )
    code = """
import resource, sys
from agentkit.memory import EpisodeLog
from agentkit.training.export import export_episodes
for num in (1000, 4000):
    with EpisodeLog.open(f"{num}.sqlite") as log:
        export_episodes(log, f"out{num}", format="datasets")
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
print(sorted({"torch", "transformers", "datasets"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    few, many, heavy = done.stdout.splitlines()
    assert float(many) < float(few) + 8
    assert heavy == "[]"


def test_what_text_keeps_of_the_tokens_is_counted(parts, log):
    policy = parts.make_policy()
    episodes = [episode for episode in log.episodes() if episode.error is None]
    same, total = round_trip(policy.tokenizer, episodes)
    assert total == sum(len(episode.turns) for episode in episodes)
    assert 0 < same <= total
    ended = next(turn for episode in episodes for turn in episode.turns if turn.finish == "stop")
    whole = parts.make_episode([ended])
    assert round_trip(policy.tokenizer, [whole]) == (1, 1)
    letters = [*policy.renderer.encode("U"), *policy.renderer.encode("p")]  # which the tokenizer would join
    spelt = parts.make_turn(ended.prompt_ids, letters, messages=ended.messages, response="Up")
    assert round_trip(policy.tokenizer, [parts.make_episode([spelt])]) == (0, 1)
