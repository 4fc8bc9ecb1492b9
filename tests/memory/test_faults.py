"""Everything that can go wrong around a memory store: one clear error that says what to do, and nothing lost."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from agentkit.errors import OwnedElsewhereError, RecordError
from agentkit.memory.embedders import HashEmbedder
from agentkit.memory.kinds import Draft, FactBody, Source
from agentkit.memory.log import EpisodeLog
from agentkit.memory.store import GATE, MemoryStore

HERE = str(Path(__file__).parent)


def fact(subject, text=None, **options):
    return Draft(
        body=FactBody(subject=str(subject), relation="is", value="so"),
        text=text or f"thing {subject} is so",
        keys={"state": text or f"a place {subject}"},
        env_id="test/Env-v0",
        source=Source(writer="environment", name="test"),
        **options,
    )


def open_store(folder, **options):
    return MemoryStore.open(folder, **{"embedder": HashEmbedder(64), "index": "exact", "gate": None, **options})


def subjects(memory):
    return sorted(one.body.subject for one in memory.held())


@contextlib.contextmanager
def within_a_second():
    begun = time.monotonic()
    yield
    assert time.monotonic() - begun < 1.0


QUERIES = [f"a place {subject}" for subject in range(0, 1500, 50)]


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A closed store with a Chroma index on disk, and what it answers when it compares all."""
    folder = tmp_path_factory.mktemp("sound") / "store"
    with open_store(folder, index="chroma") as memory:
        memory.write(map(fact, range(1500)))
    with open_store(folder) as memory:
        return folder, [[(m.id, m.score) for m in memory.recall(query, 5)] for query in QUERIES]


def segment_of(store: Path) -> Path:
    return next(path.parent for path in store.glob("chroma/*/*/data_level0.bin"))


def truncate_labels(store, other):
    os.truncate(segment_of(store) / "index_metadata.pickle", 100)


def truncate_vectors(store, other):
    path = segment_of(store) / "data_level0.bin"
    os.truncate(path, path.stat().st_size // 3)


def scramble_vectors(store, other):
    path = segment_of(store) / "data_level0.bin"
    data = bytearray(path.read_bytes())
    data[len(data) // 4 :] = random.Random(0).randbytes(len(data) - len(data) // 4)
    path.write_bytes(data)


def delete_segment(store, other):
    shutil.rmtree(segment_of(store))


def mix_vectors(store, other):
    shutil.copy(segment_of(other) / "data_level0.bin", segment_of(store))


def mix_everything(store, other):
    for path in segment_of(other).iterdir():
        shutil.copy(path, segment_of(store))


def delete_all_files(store, other):
    shutil.rmtree(store / "chroma")


def other_generation(store, other):
    shutil.rmtree(store / "chroma" / "1")
    shutil.copytree(other / "chroma" / "1", store / "chroma" / "1")


DAMAGES = [
    *(truncate_labels, truncate_vectors, scramble_vectors, delete_segment),
    *(mix_vectors, mix_everything, delete_all_files, other_generation),
]


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """Another store of the same size, whose index has other vectors under the same numbers."""
    folder = tmp_path_factory.mktemp("other") / "store"
    with open_store(folder, index="chroma") as memory:
        memory.write(map(fact, range(3000, 4500)))
    return folder


@pytest.mark.filterwarnings("ignore:recalls compare all")
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_index_never_changes_an_answer(sound, other, tmp_path, damage):
    folder, expected = sound
    store = tmp_path / "store"
    shutil.copytree(folder, store)
    damage(store, other)
    with open_store(store, index="chroma", exact_limit=100) as memory:
        assert [[(m.id, m.score) for m in memory.recall(query, 5)] for query in QUERIES] == expected
        assert memory.trouble is not None
        assert "rebuild()" in memory.trouble


def test_a_damaged_page_of_the_journal_is_named(tmp_path):
    with open_store(tmp_path) as memory:
        memory.write(map(fact, range(500)))
    path = tmp_path / "memory.sqlite"
    data = bytearray(path.read_bytes())
    for page in range(8, len(data) // 4096, 4):
        data[page * 4096 : page * 4096 + 200] = b"\xff" * 200
    path.write_bytes(data)

    def use() -> None:
        with open_store(tmp_path) as memory:
            memory.held()

    with within_a_second(), pytest.raises(RecordError, match=r"damaged; keep a copy, then .* \.recover"):
        use()


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("CREATE TABLE guests (name TEXT)", "something else .*'guests'.*give another path"),
        ("CREATE TABLE state (what TEXT)", "no such column.*not what agentkit makes; give another path"),
        (
            "CREATE TABLE state (key TEXT PRIMARY KEY, value TEXT); INSERT INTO state VALUES ('a', 'b')",
            "no memory store",
        ),
    ],
)
def test_a_foreign_database_is_refused_and_left_alone(tmp_path, statement, message):
    path = tmp_path / "memory.sqlite"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executescript(statement)
    with within_a_second(), pytest.raises(RecordError, match=message):
        open_store(tmp_path)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert statement.split(";")[0] in connection.execute("SELECT sql FROM sqlite_master").fetchone()[0]


def test_a_file_that_is_no_database_and_a_log_given_for_a_store_are_refused(tmp_path, make_episode):
    (tmp_path / "memory.sqlite").write_text("Dear diary, " * 1000)
    with within_a_second(), pytest.raises(RecordError, match="not a SQLite database; give another path"):
        open_store(tmp_path)
    (tmp_path / "memory.sqlite").unlink()
    with EpisodeLog.open(tmp_path / "memory.sqlite") as log:
        log.append(make_episode())
    with within_a_second(), pytest.raises(RecordError, match=r"something else|not what agentkit makes|no memory store"):
        open_store(tmp_path)
    with EpisodeLog.open(tmp_path / "memory.sqlite") as log:
        assert "one" in [episode.id for episode in log.episodes()]


def test_foreign_files_beside_the_store_are_left_alone(tmp_path):
    (tmp_path / "chroma" / "mine").mkdir(parents=True)
    for path in (tmp_path / "notes.txt", tmp_path / "chroma" / "notes.txt", tmp_path / "chroma" / "mine" / "notes.txt"):
        path.write_text("mine")
    with open_store(tmp_path, index="chroma") as memory:
        memory.write(map(fact, range(5)))
        memory.rebuild()
        assert memory.verify() == []
    assert sorted(path.name for path in (tmp_path / "chroma").iterdir()) == ["2", "mine", "notes.txt"]
    assert len(list(tmp_path.rglob("notes.txt"))) == 3


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 4 MB, or the reason to skip."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("only root may mount a small disk")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


@pytest.mark.filterwarnings("ignore:recalls compare all")
@pytest.mark.parametrize("index", ["exact", "chroma"])
def test_a_full_disk_loses_nothing_acknowledged(small_disk, index):
    acknowledged: list[str] = []
    with open_store(small_disk / "store", index=index) as memory:
        with pytest.raises(RecordError, match="disk is full; free space and record again"):  # noqa: PT012
            for number in range(2000):
                memory.write([fact(number, text=f"{number} " + "lava " * 700)])
                acknowledged.append(str(number))
        assert subjects(memory) == sorted(acknowledged)
        assert memory.recall("0 lava", 3)
    with contextlib.suppress(RecordError):
        memory.close()
    assert len(acknowledged) > 20
    command = ["mount", "-o", "remount,size=64m", str(small_disk)]
    subprocess.run(command, check=True)
    with open_store(small_disk / "store", index=index) as memory:
        assert subjects(memory) == sorted(acknowledged)
        memory.write([fact("more")])
        memory.rebuild()
        assert memory.verify() == []


LIMITED = """
import resource, signal, sys
sys.path.insert(0, sys.argv[2])
from test_faults import RecordError, fact, open_store
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1_200_000, 1_200_000))
memory = open_store(sys.argv[1])
try:
    for number in range(2000):
        memory.write([fact(number, text=f"{number} " + "lava " * 700)])
        print(number, flush=True)
except RecordError as error:
    print(error, file=sys.stderr)
"""


def test_a_file_that_may_not_grow_loses_nothing_acknowledged(tmp_path):
    command = [sys.executable, "-c", LIMITED, str(tmp_path / "store"), HERE]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    acknowledged = done.stdout.split()
    assert len(acknowledged) > 5
    assert "everything acknowledged is kept" in done.stderr
    assert "Traceback" not in done.stderr
    with open_store(tmp_path / "store") as memory:
        assert subjects(memory) == sorted(acknowledged)
        assert memory.verify() == []


def test_a_folder_that_cannot_be_written_is_refused(small_disk):
    with open_store(small_disk / "store") as memory:
        memory.write([fact(1)])
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with within_a_second(), pytest.raises(RecordError, match=r"cannot write in .*give a writable folder"):
        open_store(small_disk / "store")


def test_ten_megabytes_and_lone_surrogates_are_kept_as_memories(tmp_path):
    big = "lava " * 2_000_000
    with open_store(tmp_path) as memory:
        [huge, odd] = memory.write([fact("big", text=big), fact("odd \udcff", text="ice \ud800 \0 \udfff")])
        assert len(memory.get(huge.id).text) == len(big)
        assert memory.get(odd.id).text.startswith("ice ")
        assert memory.recall(big, 1)[0].id == huge.id
        assert memory.recall("ice \udc00", 1)[0].id == odd.id
        assert memory.verify() == []
    with open_store(tmp_path, gate=GATE) as memory:
        assert len(memory) == 2
        with within_a_second(), pytest.raises(RecordError, match=r"10000000 bytes, more than .* shorten or split it"):
            memory.write([fact("new", text=big)])


def test_a_namespace_not_granted_is_refused_and_writes_nothing(tmp_path):
    with open_store(tmp_path, grants=["mine"]) as memory:
        for forbidden in (
            lambda: memory.write([fact(1, namespace="mine"), fact(2, namespace="yours")]),
            lambda: memory.recall("a place", namespaces=["mine", "yours"]),
        ):
            with within_a_second(), pytest.raises(RecordError, match=r"'yours' is not granted here.*grants="):
                forbidden()
        assert memory.held() == []


def test_eight_threads_write_and_recall_and_nothing_is_lost(tmp_path):
    acknowledged: list[str] = []
    with open_store(tmp_path, index="chroma", exact_limit=20) as memory:

        def write(thread):
            for number in range(20):
                for one in memory.write([fact(f"{thread}.{number}.{part}") for part in range(2)]):
                    acknowledged.append(one.body.subject)
                assert memory.recall(f"a place {thread}.{number}.0", 1)[0].body.subject == f"{thread}.{number}.0"

        threads = [threading.Thread(target=write, args=(thread,)) for thread in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert memory.trouble is None
        assert memory.verify() == []
    with open_store(tmp_path, index="chroma") as memory:
        assert subjects(memory) == sorted(acknowledged)
        assert len(acknowledged) == 8 * 20 * 2
        assert memory.verify() == []


TAKES_TURNS = """
import sys
sys.path.insert(0, sys.argv[2])
from test_faults import fact, open_store
for turn in range(4):
    with open_store(sys.argv[1], wait_s=60) as memory:
        for number in range(10):
            [one] = memory.write([fact(f"{sys.argv[3]}.{turn}.{number}")])
            print(one.body.subject, flush=True)
"""


def test_eight_processes_take_turns_and_nothing_is_lost(tmp_path):
    command = [sys.executable, "-c", TAKES_TURNS, str(tmp_path), HERE]
    writers = [subprocess.Popen([*command, str(n)], stdout=subprocess.PIPE, text=True) for n in range(8)]
    acknowledged = [line for writer in writers for line in writer.communicate()[0].split()]
    assert [writer.returncode for writer in writers] == [0] * 8
    with open_store(tmp_path) as memory:
        assert subjects(memory) == sorted(acknowledged)
        assert len(acknowledged) == 8 * 40
        assert memory.verify() == []


def test_a_process_waits_for_the_owner_no_longer_than_told(tmp_path):
    with open_store(tmp_path):
        with within_a_second(), pytest.raises(OwnedElsewhereError, match="already open in this process"):
            open_store(tmp_path)
        begun = time.monotonic()
        with pytest.raises(OwnedElsewhereError):
            open_store(tmp_path, wait_s=1.2)
        assert 1.2 <= time.monotonic() - begun < 3
    holder = open_store(tmp_path)
    threading.Timer(0.5, holder.close).start()
    with open_store(tmp_path, wait_s=10) as memory:
        assert len(memory) == 0
