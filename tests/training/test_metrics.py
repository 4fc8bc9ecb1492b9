"""Metrics: one line an iteration, whole after a kill, rewritten by a resumed run."""

from __future__ import annotations

import json

import pytest

from agentkit.training.metrics import Metrics, read_metrics


@pytest.fixture
def write(tmp_path):
    """Write some iterations in one session."""

    def session(numbers, after=0, **values):
        metrics = Metrics(tmp_path, after=after)
        for number in numbers:
            metrics.write(number, {"success": number / 10, "bottleneck/all": None, **values})
        metrics.close()

    return session


def numbers(tmp_path):
    return [line["iteration"] for line in read_metrics(tmp_path / "metrics.jsonl")]


def test_values_come_back_as_they_were_written(tmp_path, write):
    write([1, 2])
    assert read_metrics(tmp_path / "metrics.jsonl") == [
        {"iteration": 1, "success": 0.1, "bottleneck/all": None},
        {"iteration": 2, "success": 0.2, "bottleneck/all": None},
    ]
    assert list((tmp_path / "tensorboard").glob("events*"))


def test_a_line_is_on_disk_when_it_is_written(tmp_path):
    metrics = Metrics(tmp_path)
    metrics.write(1, {"success": 1.0})
    assert numbers(tmp_path) == [1]
    metrics.close()


def test_a_resumed_run_writes_the_later_lines_again(tmp_path, write):
    write([1, 2, 3, 4])
    write([3, 4, 5], after=2, second=1.0)
    lines = read_metrics(tmp_path / "metrics.jsonl")
    assert [line["iteration"] for line in lines] == [1, 2, 3, 4, 5]
    assert ["second" in line for line in lines] == [False, False, True, True, True]


def test_a_new_run_begins_with_no_lines(tmp_path, write):
    write([1, 2])
    write([1])
    assert numbers(tmp_path) == [1]


def test_a_torn_last_line_is_left_out_wherever_it_was_torn(tmp_path, write):
    write([1, 2])
    path = tmp_path / "metrics.jsonl"
    whole = path.read_bytes()
    second = whole.index(b"\n") + 1
    for cut in range(second, len(whole) - 1):
        path.write_bytes(whole[:cut])
        assert numbers(tmp_path) == [1]
    write([2], after=1)
    assert path.read_bytes() == whole


def test_no_file_means_no_lines(tmp_path):
    assert read_metrics(tmp_path / "metrics.jsonl") == []


def test_lines_are_plain_json(tmp_path, write):
    write([1])
    json.loads((tmp_path / "metrics.jsonl").read_text())
