from __future__ import annotations

from pathlib import Path

from agentkit import ExpertPolicy, MemoryStore, collect, make_tasks
from agentkit.bench.eviction import RULES, keep
from agentkit.memory.embedders import HashEmbedder


def test_evicting_leaves_the_store_as_it_was(tmp_path: Path) -> None:
    with MemoryStore.open(tmp_path, embedder=HashEmbedder(), index="exact") as store:
        for episode in collect(ExpertPolicy(), make_tasks("agentkit/FrozenLake-v0", num=6)):
            store.add(episode)
        before = store.held()
        assert [len(keep(store, rule, 2, 0)) for rule in RULES] == [2, 2, 2]
        assert store.held() == before
