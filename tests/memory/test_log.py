"""The episode log: what it acknowledges, it keeps; what it cannot do, it says. The faults are real ones."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from agentkit.errors import RecordError
from agentkit.memory.log import EpisodeLog

HERE = Path(__file__).parent


@pytest.fixture
def log(tmp_path):
    with EpisodeLog.open(tmp_path / "log.sqlite") as log:
        yield log


@pytest.fixture
def small_disk(tmp_path):
    """A real file system of 1 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    try:
        mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if mounted.returncode != 0:
        pytest.skip(f"mounting is not permitted: {mounted.stderr.strip()}")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_an_episode_comes_back_equal(log, make_episode):
    episode = make_episode()
    assert log.append(episode) == 1
    assert log.get("one") == episode
    assert "one" in log
    assert log.get("two") is None
    assert "two" not in log


def test_a_replayed_episode_keeps_its_number(log, make_episode):
    episode = make_episode()
    first = log.append(episode)
    slower = episode.model_copy(update={"seconds": 9.0, "started_at": 99.0})
    assert log.append_many([make_episode("two"), slower, slower]) == [2, first, first]
    assert len(log) == 2
    assert log.get("one") == episode  # as first recorded


def test_an_id_with_other_content_is_refused_and_nothing_is_recorded(log, make_episode):
    log.append(make_episode())
    with pytest.raises(RecordError, match=r"'one' is already in .* own id"):
        log.append_many([make_episode("two"), make_episode(observation="elsewhere")])
    assert len(log) == 1
    assert log.append_many([]) == []


def test_episodes_stream_in_order_and_pass_the_filters(log, make_episode):
    log.append_many(
        make_episode(f"e{n}", success=n % 2 == 0, env_id=f"env{n % 3}", group_id=f"g{n // 10}") for n in range(150)
    )
    log.append(make_episode("held", split="held_out"))
    assert [e.id for e in log.episodes()] == [f"e{n}" for n in range(150)] + ["held"]
    assert [e.id for e in log.episodes(after=148)] == ["e148", "e149", "held"]
    assert [e.id for e in log.episodes(group_id="g1", success=False)] == ["e11", "e13", "e15", "e17", "e19"]
    assert [e.id for e in log.episodes(split="held_out")] == ["held"]
    assert log.count(env_id="env1", success=True) == sum(n % 6 == 4 for n in range(150))
    assert [seq for seq, _ in log.numbered(after=145, success=True)] == [147, 149, 151]
    assert log.last_seq == 151


def test_a_stream_ends_although_its_reader_appends(log, make_episode):
    log.append_many(make_episode(f"e{n}") for n in range(70))
    for episode in log.episodes():
        log.append(episode.model_copy(update={"id": "child-" + episode.id, "parent_id": episode.id}))
    assert len(log) == 140


def test_json_lines_carry_a_log_to_another_without_loss(log, make_episode, tmp_path):
    episodes = [make_episode(f"e{n}", observation="zug\u2028\U0001f600") for n in range(5)]
    log.append_many(episodes)
    assert log.export_jsonl(tmp_path / "out.jsonl") == 5
    with EpisodeLog.open(tmp_path / "other.sqlite") as other:
        assert other.import_jsonl(tmp_path / "out.jsonl") == 5
        assert other.import_jsonl(tmp_path / "out.jsonl") == 0
        assert list(other.episodes()) == episodes


def test_a_bad_line_is_named(log, make_episode, tmp_path):
    path = tmp_path / "in.jsonl"
    path.write_text(make_episode().model_dump_json() + "\nnonsense\n")
    with pytest.raises(RecordError, match="line 2 of"):
        log.import_jsonl(path)
    with pytest.raises(RecordError, match=r"cannot import .*missing"):
        log.import_jsonl(tmp_path / "missing.jsonl")


def test_a_flipped_byte_is_found_and_the_episode_named(tmp_path, make_episode):
    path = tmp_path / "log.sqlite"
    with EpisodeLog.open(path) as log:
        log.append_many(make_episode(f"e{n}") for n in range(3))
        assert log.verify() == []
    connection = sqlite3.connect(path)
    payload = connection.execute("SELECT payload FROM episodes WHERE id = 'e1'").fetchone()[0]
    connection.close()
    data = bytearray(path.read_bytes())
    data[data.index(payload[:40]) + 20] ^= 1
    path.write_bytes(data)
    with EpisodeLog.open(path) as log:
        assert log.get("e0") == make_episode("e0")
        with pytest.raises(RecordError, match=r"'e1' in .* is damaged.*restore"):
            log.get("e1")
        problems = log.verify()
        assert len(problems) == 1
        assert "'e1'" in problems[0]


def test_a_changed_column_is_found(tmp_path, make_episode):
    path = tmp_path / "log.sqlite"
    with EpisodeLog.open(path) as log:
        log.append(make_episode())
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.execute("UPDATE episodes SET success = 0")
            connection.commit()
        assert "success" in log.verify()[0]


def test_a_damaged_database_is_reported(tmp_path, make_episode):
    path = tmp_path / "log.sqlite"
    with EpisodeLog.open(path) as log:
        log.append_many(make_episode(f"e{n}", ids=300) for n in range(100))
    with path.open("r+b") as file:
        for page in range(3, path.stat().st_size // 4096 - 1):
            file.seek(page * 4096)
            file.write(os.urandom(4096))
    with EpisodeLog.open(path) as log:
        assert log.verify()
        with pytest.raises(RecordError, match=r"damaged.*(recover|restore)"):
            list(log.episodes())


def test_what_is_no_database_is_refused(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("shopping list\n" * 100)
    with pytest.raises(RecordError, match=r"notes.txt: it is not a SQLite database; give another path"):
        EpisodeLog.open(path)
    assert path.read_text().startswith("shopping")


def test_an_unwritable_place_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RecordError, match="give a path in a writable folder"):
        EpisodeLog.open(tmp_path / "file" / "log.sqlite")
    with pytest.raises(RecordError, match="neither a path nor a database URL"):
        EpisodeLog.open("://")


def test_a_read_only_disk_is_refused(small_disk):
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(RecordError, match="writable"):
        EpisodeLog.open(small_disk / "log.sqlite")


def test_newer_versions_are_refused(tmp_path, make_episode):
    path = tmp_path / "log.sqlite"
    with EpisodeLog.open(path) as log:
        log.append(make_episode())
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE episodes SET format = 99")
        connection.commit()
        with EpisodeLog.open(path) as log, pytest.raises(RecordError, match=r"'one' .* format 99.*upgrade"):
            log.get("one")
        connection.execute("UPDATE about SET value = '99' WHERE key = 'layout'")
        connection.commit()
    with pytest.raises(RecordError, match=r"newer agentkit .*upgrade"):
        EpisodeLog.open(path)


def test_a_full_disk_loses_nothing_acknowledged(small_disk, make_episode):
    path = small_disk / "log.sqlite"
    filler = small_disk / "filler"
    filler.write_bytes(b"x" * 400_000)
    acknowledged = []
    with EpisodeLog.open(path) as log:

        def fill_the_disk():
            for number in range(10_000):
                log.append(make_episode(f"e{number}", ids=300))
                acknowledged.append(f"e{number}")

        with pytest.raises(RecordError, match="again: everything acknowledged is kept"):
            fill_the_disk()
        assert len(acknowledged) > 10
        assert [episode.id for episode in log.episodes()] == acknowledged
        filler.unlink()
        log.append(make_episode("after"))
    with EpisodeLog.open(path) as log:
        assert log.verify() == []
        assert [episode.id for episode in log.episodes()] == [*acknowledged, "after"]


@pytest.mark.parametrize("durable", [False, True])
def test_durable_decides_how_the_disk_is_flushed(tmp_path, durable, make_episode):
    with EpisodeLog.open(tmp_path / "log.sqlite", durable=durable) as log:
        log.append(make_episode())
        with log._database.reading() as connection:
            assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
            assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == (2 if durable else 1)


def test_a_forked_child_must_open_the_log_itself(log, make_episode):
    log.append(make_episode())
    child = os.fork()
    if child == 0:
        try:
            log.append(make_episode("two"))
        except RecordError as error:
            os._exit(0 if "open it again" in str(error) else 2)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert len(log) == 1


def test_several_processes_append_to_a_new_log_at_once(tmp_path):
    path = tmp_path / "log.sqlite"
    code = (
        f"import sys; sys.path.insert(0, {str(HERE)!r}); from factory import make_episode\n"
        "from agentkit.memory.log import EpisodeLog\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "log = EpisodeLog.open(sys.argv[1])\n"
        "for n in range(60): log.append(make_episode(f'{sys.argv[2]}-{n}'))\n"
    )
    workers = [
        subprocess.Popen([sys.executable, "-c", code, str(path), str(n)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for n in range(3)
    ]
    for worker in workers:
        assert worker.stdout is not None
        assert worker.stdout.readline() == b"ready\n"
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write(b"go\n")
        worker.stdin.flush()
    for worker in workers:
        worker.communicate()
    assert [worker.returncode for worker in workers] == [0, 0, 0]
    with EpisodeLog.open(path) as log:
        assert len(log) == 180
        assert log.verify() == []


def test_fifty_kills_lose_nothing_acknowledged(tmp_path):
    path = tmp_path / "log.sqlite"
    rng = random.Random(0)
    acknowledged: list[str] = []
    command = [sys.executable, str(HERE / "collector.py"), str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as collector:
        assert collector.stdin is not None
        assert collector.stdout is not None
        for start in range(50):
            collector.stdin.write(f"{start}\n")
            collector.stdin.flush()
            child = 0
            deadline = None
            for line in collector.stdout:
                word, _, rest = line.strip().partition(" ")
                if word == "pid":
                    child = int(rest)
                elif word == "ack":
                    acknowledged.append(rest)
                    deadline = deadline or time.monotonic() + rng.uniform(0, 0.1)
                else:
                    break
                if child and deadline and time.monotonic() >= deadline:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(child, signal.SIGKILL)
        collector.stdin.close()
    assert len({name.split("-")[0] for name in acknowledged}) == 50
    with EpisodeLog.open(path) as log:
        assert log.verify() == []
        recorded = [episode.id for episode in log.episodes()]
    assert set(acknowledged) <= set(recorded)
    assert len(recorded) <= len(acknowledged) + 50  # at most the one each child was writing
