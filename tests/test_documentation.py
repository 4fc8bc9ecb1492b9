"""What the README, the pages and the examples show is run."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from agentkit import ExpertPolicy, collect, make_tasks
from agentkit.memory import HashEmbedder

ROOT = Path(__file__).parents[1]


def snippets(page: str) -> list[str]:
    """The Python blocks of a page."""
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("page", ["README.md", "docs/record.md", "docs/memory.md"])
def test_the_python_shown_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "one").mkdir(parents=True)
    monkeypatch.setattr("agentkit.memory.store.MiniLMEmbedder", HashEmbedder)  # the real one takes 20 s to load
    task = make_tasks("agentkit/FrozenLake-v0")[0]
    episode = collect(ExpertPolicy(), [task])[0]
    found = snippets(page)
    assert found
    for code in found:
        exec(code, {"episode": episode, "task": task, "observation": episode.turns[0].observation})  # noqa: S102


def test_the_readme_shows_a_result_within_its_first_25_lines() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()[:25]
    assert any(line.startswith("after rl") for line in lines)


@pytest.mark.parametrize(
    ("example", "shown"), [("own_environment.py", "success: True"), ("own_graph.py", "plan: Go right, then down.")]
)
def test_an_example_runs(example: str, shown: str) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / example], capture_output=True, text=True, check=True, timeout=120
    )
    assert shown in done.stdout


def test_the_chat_example_evaluates_an_endpoint() -> None:
    class Answer(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            body = (
                b'{"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [{"index": 0, '
                b'"finish_reason": "stop", "message": {"role": "assistant", "content": '
                b'"<think>one</think><answer>1,1,1</answer>"}}]}'
            )
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/v1"
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / "evaluate_chat.py", "m", url],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    server.shutdown()
    assert '"optimal": 1.0' in done.stdout
    assert '"failed": 0' in done.stdout
