"""The layout of a memory store's journal: its tables and what their columns mean; see `journal.py`."""

from __future__ import annotations

from sqlalchemy import Column, Float, Index, Integer, LargeBinary, MetaData, Table, Text

LAYOUT_VERSION = 3
"""Version of the tables below; 3 holds all kinds of memories and their versions, and every text's vector once."""

tables = MetaData()
state = Table("state", tables, Column("key", Text, primary_key=True), Column("value", Text, nullable=False))
memories = Table(
    "versions",
    tables,
    Column("seq", Integer, primary_key=True),
    Column("id", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("ended", Integer),
    Column("write", Integer, nullable=False),
    Column("kind", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("namespace", Text, nullable=False),
    Column("env_id", Text, nullable=False),
    Column("task_key", Text, nullable=False),
    Column("split", Text, nullable=False),
    Column("valid_from", Float),
    Column("valid_to", Float),
    Column("recorded_s", Float, nullable=False),
    Column("source_name", Text, nullable=False),
    Column("draft", Text, nullable=False),
    Column("digest", Text, nullable=False),
    Column("chain", Text, nullable=False),
    Index("versions_by_id", "id", "seq"),
    Index("versions_by_scope", "namespace", "env_id", "kind", "seq"),
    Index("versions_by_write", "write"),
)
"""`ended` is the sequence number of the next version; `draft` is JSON, empty once forgotten; `digest` hashes id,
version and draft; `chain` hashes the digests of this version and all before it, so that a snapshot can be named by
what it holds."""
keys = Table(
    "keys",
    tables,
    Column("seq", Integer, primary_key=True),
    Column("field", Text, primary_key=True),
    Column("vector", Integer, nullable=False),
    Index("keys_by_vector", "vector"),
)
"""What versions are found by: the number of the vector of each key."""
vectors = Table(
    "vectors",
    tables,
    Column("number", Integer, primary_key=True),
    Column("digest", LargeBinary, nullable=False, unique=True),
    Column("text", Text, nullable=False),
    Column("fingerprint", Text, nullable=False),
    Column("embedding", LargeBinary, nullable=False),
    sqlite_autoincrement=True,
)
"""Texts of keys, each once: attempts at one task begin alike, and a graph of nearest neighbours falls apart where many
are equal. The vector index knows a vector by its number, which is never given again."""
next_vectors = Table(
    "next_vectors",
    tables,
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("fingerprint", Text, primary_key=True),
    Column("embedding", LargeBinary, nullable=False),
)
"""Vectors of the same texts by another embedder, until all have one and they take their place (`migration.py`)."""
writes = Table(
    "writes",
    tables,
    Column("number", Integer, primary_key=True),
    Column("time_s", Float, nullable=False),
    Column("what", Text, nullable=False),
    Index("writes_by_what", "what"),
)
"""Transactions, so that each can be undone."""
exposures = Table(
    "exposures",
    tables,
    Column("number", Integer, primary_key=True),
    Column("id", Text, nullable=False, unique=True),
    Column("episode_key", Text, nullable=False),
    Column("task_key", Text, nullable=False),
    Column("context", Text, nullable=False),
    Column("held_out", Integer, nullable=False),
    Column("holdout", Float, nullable=False),
    Column("policy_version", Integer, nullable=False),
    Column("time_s", Float, nullable=False),
    Index("exposures_by_episode", "episode_key"),
)
"""Recalls: what might have been shown, and was; see `agentkit.memory.ledger`."""
candidates = Table(
    "candidates",
    tables,
    Column("exposure", Integer, primary_key=True),
    Column("place", Integer, primary_key=True),
    Column("memory", Text, nullable=False),
    Column("score", Float, nullable=False),
    Column("propensity", Float, nullable=False),
    Column("position", Integer),
    Index("candidates_by_memory", "memory"),
)
"""The memories of an exposure in the order of their coins; `position` is empty if it was not shown, `memory` once it is
forgotten."""
outcomes = Table(
    "outcomes",
    tables,
    Column("number", Integer, primary_key=True),
    Column("episode_key", Text, nullable=False, unique=True),
    Column("episode_id", Text, nullable=False),
    Column("value", Float, nullable=False),
    Index("outcomes_by_episode", "episode_id"),
)
"""What the environment said of episodes, and nobody else."""
judgements = Table(
    "judgements",
    tables,
    Column("episode_key", Text, primary_key=True),
    Column("judge", Text, primary_key=True),
    Column("value", Float, nullable=False),
)
"""What models said of episodes; never read by what estimates utility."""
word_counts = Table(
    "word_counts",
    tables,
    Column("seq", Integer, primary_key=True, autoincrement=False),
    Column("num_words", Integer, nullable=False),
)
"""Words of each version that is not forgotten; which words, the lexical index knows (`lexical.py`)."""
places = Table(
    "places",
    tables,
    Column("state_key", Text, primary_key=True),
    Column("seq", Integer, primary_key=True),
    Column("worth", Float, nullable=False),
    Index("places_by_worth", "state_key", "worth", "seq"),
)
"""States in which versions acted; `worth` is their trust plus the nearness to the end of success (`places.py`)."""
marks = Table(
    "marks",
    tables,
    Column("id", Text, primary_key=True),
    Column("claim", Integer, nullable=False, index=True),
    Column("anchor", Integer, index=True),
)
"""What the newest version of a memory is found by when a draft may repeat it: hash of its claim, and a run of its words
that few others hold (`writer.py`)."""
notes = Table("notes", tables, Column("seq", Integer, primary_key=True), Column("reasons", Text, nullable=False))
"""Why a version was given its status: sentences as JSON; only where there is something to say."""
snapshots = Table("snapshots", tables, Column("name", Text, primary_key=True), Column("snapshot", Text, nullable=False))
