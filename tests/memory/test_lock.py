"""One owner a folder, whatever happens to it."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from agentkit.errors import OwnedElsewhereError, RecordError
from agentkit.memory.lock import FolderLock

HOLD = (
    "import sys, pathlib; from agentkit.memory.lock import FolderLock\n"
    "lock = FolderLock(pathlib.Path(sys.argv[1])); print('held', flush=True); sys.stdin.readline()\n"
)


@pytest.fixture
def owner(tmp_path):
    """Another process that owns `tmp_path`."""
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_second_process_is_told_whom_to_ask_within_a_second(tmp_path, owner):
    start = time.monotonic()
    with pytest.raises(OwnedElsewhereError, match=rf"owned by process {owner.pid} on .*; close it there"):
        FolderLock(tmp_path)
    assert time.monotonic() - start < 5


def test_the_lock_goes_with_a_killed_owner(tmp_path, owner):
    owner.kill()
    owner.wait()
    FolderLock(tmp_path).close()


def test_a_second_object_in_this_process_is_refused_until_the_first_closes(tmp_path):
    first = FolderLock(tmp_path)
    with pytest.raises(OwnedElsewhereError, match="already open in this process"):
        FolderLock(tmp_path)
    first.close()
    first.close()
    second = FolderLock(tmp_path)
    second.check()
    with pytest.raises(RecordError, match="has been closed"):
        first.check()
    second.close()


def test_a_forked_child_may_not_use_nor_release_its_parents_lock(tmp_path):
    lock = FolderLock(tmp_path)
    child = os.fork()
    if child == 0:
        lock.close()
        try:
            lock.check()
        except OwnedElsewhereError as error:
            os._exit(0 if "forked" in str(error) else 2)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    lock.check()
    with pytest.raises(OwnedElsewhereError):
        FolderLock(tmp_path)
    lock.close()


def test_a_surviving_child_does_not_keep_its_dead_parents_lock(tmp_path):
    code = (
        "import os, sys, time, pathlib; from agentkit.memory.lock import FolderLock\n"
        "lock = FolderLock(pathlib.Path(sys.argv[1])); child = os.fork()\n"
        "if child == 0: time.sleep(20)\n"
        "else: print(child, flush=True); os._exit(0)\n"
    )
    done = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert done.stdout is not None
    child = int(done.stdout.readline())
    assert done.wait() == 0
    try:
        os.kill(child, 0)  # the child lives
        FolderLock(tmp_path).close()
    finally:
        os.kill(child, 9)
        done.stdout.close()


def test_an_unwritable_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RecordError, match="give a writable folder"):
        FolderLock(tmp_path / "file" / "store")
