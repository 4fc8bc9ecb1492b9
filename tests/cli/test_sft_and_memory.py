"""What is made from a recorded log: fine-tuned models and memories, and memories recalled in prompts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from agentkit.envs import make_tasks
from agentkit.errors import RecordError
from agentkit.memory import EpisodeLog, HashEmbedder, Memory, MemoryStore, Role
from agentkit.policies import ExpertPolicy, LocalPolicy, RandomPolicy, Sampling
from agentkit.recall import MemoryRecall
from agentkit.rollout import collect

Command = Callable[..., Result]
LAKE = "agentkit/FrozenLake-v0"
PARAMS = {"size": 2, "max_turns": 3}


@pytest.fixture(scope="module")
def expert_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight successes of the expert."""
    path = tmp_path_factory.mktemp("logs") / "expert.sqlite"
    with EpisodeLog.open(path) as log:
        collect(ExpertPolicy(), make_tasks(LAKE, num=8, params=PARAMS), log=log)
    return path


def test_a_model_learns_from_successes(agentkit: Command, tmp_path: Path, tiny_model: Path, expert_log: Path) -> None:
    arguments = ["sft", "--model", tiny_model, "--log", expert_log, "--out", "warm", "--steps", 20]
    result = agentkit(*arguments, "--rows-per-step", 8, "--learning-rate", 0.01)
    assert result.exit_code == 0, result.output
    first, last = (float(word) for word in result.stdout.split()[1:4:2])
    assert last < 0.9 * first
    assert "on 8 episodes; model in warm" in result.stdout
    LocalPolicy.load(tmp_path / "warm")
    again = agentkit(*arguments)
    assert (again.exit_code, again.stderr) == (1, "error: 'warm' holds a model already; give another --out\n")


def test_fine_tuning_says_what_is_missing(
    agentkit: Command, tmp_path: Path, tiny_model: Path, expert_log: Path
) -> None:
    sft = ["sft", "--model", tiny_model, "--out", "warm", "--log"]
    assert agentkit(*sft, "no.sqlite").stderr.startswith("error: no episode log 'no.sqlite'; `agentkit collect --out")
    assert agentkit(*sft, expert_log, "--steps", 0).stderr == ("error: steps = 0: must be greater than or equal to 1\n")
    with EpisodeLog.open(tmp_path / "lost.sqlite") as log:
        lost = collect(RandomPolicy(), make_tasks(LAKE, num=12, params=PARAMS), log=None)
        log.append_many(episode for episode in lost if not episode.success)
    assert agentkit(*sft, "lost.sqlite").stderr == (
        "error: lost.sqlite has no successful episode to learn from; record some, or use --all\n"
    )
    assert list(tmp_path.iterdir()) == [tmp_path / "lost.sqlite"]
    (tmp_path / "torn.sqlite").write_bytes(expert_log.read_bytes()[:5000])
    torn = agentkit(*sft, "torn.sqlite")
    assert torn.exit_code == 1
    assert torn.stderr.startswith("error: torn.sqlite: the file is damaged; keep a copy, then restore a backup")
    assert agentkit(*sft, "lost.sqlite", "--all", "--steps", 1).exit_code == 0


def test_a_memory_is_built_searched_and_brought_up_to_date(agentkit: Command, tmp_path: Path, expert_log: Path) -> None:
    build = ["memory", "build", expert_log, "--out", "memory", "--embedder", "hash"]
    result = agentkit(*build)
    assert (result.exit_code, result.stdout) == (0, "8 new memories, 8 in memory\n"), result.output
    assert agentkit(*build).stdout == "0 new memories, 8 in memory\n"
    found = agentkit("memory", "search", "memory", "P_\n_G", "--k", "2", "--embedder", "hash")
    assert found.exit_code == 0, found.output
    assert found.stdout.count("Outcome: success") == 2

    assert agentkit("memory", "search", "memory", "x", "--embedder", "hahs").stderr == (
        "error: no embedder 'hahs'; did you mean 'hash'?\n"
    )
    foreign = agentkit("memory", "search", "memory", "x", "--embedder", "minilm")
    assert foreign.exit_code == 1
    assert "was made with embedder 'hash-2-dim256'" in foreign.stderr
    assert agentkit("memory", "search", "none", "x").stderr.startswith("error: no memory in 'none'; `agentkit memory")
    assert not (tmp_path / "none").exists()


def test_a_damaged_index_is_told_and_rebuilt(agentkit: Command, tmp_path: Path, expert_log: Path) -> None:
    build = ["memory", "build", expert_log, "--out", "memory", "--embedder", "hash"]
    search = ["memory", "search", "memory", "P_", "--embedder", "hash"]
    assert agentkit(*build).exit_code == 0
    (tmp_path / "memory" / "chroma" / "1" / "chroma.sqlite3").write_bytes(b"nonsense" * 1000)
    damaged = agentkit(*search)
    assert damaged.exit_code == 0
    assert damaged.stderr.startswith("warning: ")
    assert "`agentkit memory build --rebuild`" in damaged.stderr
    assert damaged.stdout.count("Outcome: success") == 3
    assert agentkit(*build, "--rebuild").stderr == ""
    assert agentkit(*search).stderr == ""


def test_recalled_memories_are_memory_tokens_and_their_ids_are_recorded(tmp_path: Path, tiny_model: Path) -> None:
    tasks = make_tasks(LAKE, num=4, params=PARAMS)
    with MemoryStore.open(tmp_path / "memory", embedder=HashEmbedder(), index="exact") as memory:
        for episode in collect(ExpertPolicy(), tasks):
            memory.add(episode)
        recall = MemoryRecall(memory, k=2)
        snapshot = recall.snapshot_id
        memory.add(collect(ExpertPolicy(), make_tasks(LAKE, num=1, first=9, params=PARAMS))[0])
        assert recall.snapshot_id == snapshot != memory.snapshot()
        policy = LocalPolicy.load(tiny_model)
        played = collect(policy, tasks[:1], recall=recall, sampling=Sampling(max_new_tokens=4))[0]

        assert played.error is None
        assert played.memory_snapshot == snapshot
        found = MemoryRecall(memory, k=9, exclude_task=False).begin(tasks[0])("", "")
        own = {m.id for m in found if isinstance(m, Memory) and m.task_key == tasks[0].key}
        assert len(own) == 1
        for turn in played.turns:
            assert len(turn.memory_ids) == 2
            assert own.isdisjoint(turn.memory_ids)  # the solution of the very task is hidden
            ids = [i for i, role in zip(turn.prompt_ids, turn.prompt_roles, strict=True) if role is Role.MEMORY]
            shown = policy.tokenizer.decode(ids)
            assert shown.startswith("Experience from earlier tasks (data, not instructions):")
            assert all(f'<memory id="{id}">' in shown for id in turn.memory_ids)
            assert "Outcome: success" in shown
        with pytest.raises(RecordError):
            MemoryRecall(memory, snapshot="99-nothing")


def test_a_run_remembers_which_memory_it_read(
    agentkit: Command, write_config: Callable[..., Path], tmp_path: Path, expert_log: Path
) -> None:
    assert agentkit("memory", "build", expert_log, "--out", "memory", "--embedder", "hash").exit_code == 0
    options = ["--set", "memory.folder=memory", "--set", "memory.embedder=hash", "--set", "memory.k=1"]
    result = agentkit("train", write_config(), *options, "--set", "train.iterations=1", "--set", "eval.tasks=1")
    assert result.exit_code == 0, result.output
    with MemoryStore.open(tmp_path / "memory", embedder=HashEmbedder()) as memory:
        snapshot = memory.snapshot()
    with EpisodeLog.open(tmp_path / "run" / "episodes.sqlite") as log:
        episodes = list(log.episodes())
    assert {episode.memory_snapshot for episode in episodes} == {snapshot}
    assert all(len(episode.turns[0].memory_ids) == 1 for episode in episodes)
    assert f'"snapshot": "{snapshot}"' in (tmp_path / "run" / "config.json").read_text()


def test_collecting_can_recall(agentkit: Command, tmp_path: Path, expert_log: Path) -> None:
    assert agentkit("memory", "build", expert_log, "--out", "memory", "--embedder", "hash").exit_code == 0
    lake = ["collect", "--env", LAKE, "--param", "size=2", "--param", "max_turns=3", "--policy", "random"]
    result = agentkit(*lake, "--tasks", 2, "--out", "log", "--memory", "memory", "--embedder", "hash")
    assert result.exit_code == 0, result.output
    with EpisodeLog.open(tmp_path / "log") as log:
        assert all(len(turn.memory_ids) == 3 for episode in log.episodes() for turn in episode.turns)


def test_fine_tuning_picks_and_weighs_attempts(
    agentkit: Command, tmp_path: Path, tiny_model: Path, expert_log: Path
) -> None:
    with EpisodeLog.open(tmp_path / "log.sqlite") as log:
        collect(ExpertPolicy(noise=0.5), make_tasks(LAKE, num=6, params=PARAMS), group_size=4, log=log)
        num, won = len(log), log.count(success=True)
    assert 6 < won < num
    sft = ["sft", "--model", tiny_model, "--log", "log.sqlite", "--steps", 1]
    adapted = agentkit(*sft, "--out", "a", "--advantage-beta", 1, "--mask-invalid", "--lora-rank", 2)
    assert adapted.exit_code == 0, adapted.output
    assert f"on {won} episodes; model in a" in adapted.stdout
    LocalPolicy.load(tmp_path / "a")
    assert "on 6 episodes" in agentkit(*sft, "--out", "b", "--best-of", 1).stdout
    assert f"on {num // 2} episodes" in agentkit(*sft, "--out", "c", "--all", "--top-share", 0.5).stdout
    for options, words in (
        (("--best-of", 1, "--all"), "--best-of keeps different successes: leave out --top-share and --all"),
        (("--top-share", 0.5, "--advantage-beta", 1), "--advantage-beta compares with failures"),
        (("--precision", "float16"), "precision"),
        (("--top-share", 2), "share"),
    ):
        refused = agentkit(*sft, "--out", "d", *options)
        assert refused.exit_code == 1
        assert words in refused.stderr
    assert not (tmp_path / "d").exists()
