"""The page on learning from a log, and its example, are run."""

from __future__ import annotations

import doctest
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_every_example_of_the_page_runs_as_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("trl", reason="the extra trl is not installed")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    page = str(ROOT / "docs" / "offline.md")
    flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    failed, attempted = doctest.testfile(page, module_relative=False, encoding="utf-8", optionflags=flags)
    assert attempted >= 30
    assert failed == 0


def test_the_example_compares_three_ways_to_learn_from_a_log(tmp_path: Path) -> None:
    pytest.importorskip("trl", reason="the extra trl is not installed")
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / "offline.py", "--quick"],
        cwd=tmp_path,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["cloned", "best-of-n", "dpo", "exported"]
