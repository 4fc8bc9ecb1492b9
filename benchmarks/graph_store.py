"""CPU time of the LangGraph store on disk, beside LangGraph's own in memory, in the same run.

Run: python benchmarks/graph_store.py [--items N] [--dims D] [--chroma]
"""

from __future__ import annotations

import argparse
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from langgraph.store.base import BaseStore, PutOp
from langgraph.store.memory import InMemoryStore

from agentkit.memory.graph_store import ChromaMemoryStore


def cpu_ms(work: Callable[[int], object], number: int) -> float:
    """CPU milliseconds of one call."""
    start = time.process_time()
    for n in range(number):
        work(n)
    return (time.process_time() - start) / number * 1e3


def measure(store: BaseStore, num_items: int) -> dict[str, float]:
    """CPU milliseconds by operation; embedding is a look-up, so that the stores are what is measured."""
    ops = [PutOp(("all", f"user{n % 100}"), f"k{n}", {"text": f"{n}", "group": f"g{n % 10}"}) for n in range(num_items)]
    pages = [ops[start : start + 100] for start in range(0, num_items, 100)]
    took = {"put, 100 a batch": cpu_ms(lambda n: store.batch(pages[n]), len(pages)) / 100}
    took["put"] = cpu_ms(lambda n: store.put(("one",), f"{n}", {"text": f"{n}", "group": "g0"}), 200)
    took["get"] = cpu_ms(lambda n: store.get(("all", "user7"), f"k{n * 100 + 7}"), 200)
    took["search, filter, 1 % in scope"] = cpu_ms(lambda n: store.search(("all", "user7"), filter={"group": "g7"}), 50)
    took["search, query, 1 % in scope"] = cpu_ms(lambda n: store.search(("all", "user7"), query=f"q{n}"), 50)
    store.search(("all",), query="first")  # Chroma catches up
    took["search, query, all in scope"] = cpu_ms(lambda n: store.search(("all",), query=f"q{n}"), 10)
    took["search, query and filter"] = cpu_ms(
        lambda n: store.search(("all",), query=f"q{n}", filter={"group": "g3"}), 10
    )
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=5_000)
    parser.add_argument("--dims", type=int, default=384)
    parser.add_argument("--chroma", action="store_true", help="also with Chroma proposing from 1000 vectors on")
    arguments = parser.parse_args()
    table = np.random.default_rng(0).standard_normal((1 << 14, arguments.dims), np.float32)

    def embed(texts: Any) -> list[Any]:
        return [table[zlib.crc32(text.encode()) % len(table)] for text in texts]

    index: Any = {"dims": arguments.dims, "embed": embed, "fields": ["text"]}
    with tempfile.TemporaryDirectory() as folder:
        memory = measure(InMemoryStore(index=index), arguments.items)
        with ChromaMemoryStore(Path(folder) / "exact", index=index) as store:
            columns = {"on disk": measure(store, arguments.items)}
        if arguments.chroma:
            with ChromaMemoryStore(Path(folder) / "chroma", index=index, exact_limit=1000) as store:
                columns["with Chroma"] = measure(store, arguments.items)
    print(f"{arguments.items} items, {arguments.dims} dimensions; CPU ms a call (ratio to the store in memory)")
    print(f"{'':<30} {'in memory':>10} " + " ".join(f"{name:>18}" for name in columns))
    for name, base in memory.items():
        cells = (f"{took[name]:9.3f} ({took[name] / base:6.2f})" for took in columns.values())
        print(f"{name:<30} {base:10.3f} " + " ".join(cells))


if __name__ == "__main__":
    main()
