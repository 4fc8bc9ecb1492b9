"""The lexical arm: memories that hold the words of a situation, by BM25 over their text and keys.

SQLite's FTS5 keeps the index of words, beside the journal and in its transactions. The score is worked out here, from
nothing that was written after the snapshot that is read: the same snapshot gives the same numbers for ever.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from sqlalchemy import Connection, delete, func, insert, select
from sqlalchemy.exc import OperationalError

from agentkit.memory import journal
from agentkit.memory.case import KEY_LIMIT
from agentkit.memory.journal import memory_of
from agentkit.memory.kinds import Memory
from agentkit.memory.layout import memories, word_counts
from agentkit.memory.planner import Scope
from agentkit.memory.records import encodable

MOST_DOCUMENTS = 4_000
"""A word in more versions than this tells little and costs much: it is not searched for. A number and not a share, so
that a word once left out stays out, which need not be found out again."""
MOST_POSTINGS = 4_000
"""Words are searched for from the rarest on, until they stand in this many versions together."""
MOST_WORDS = 64
"""Different words of a query that are looked at, its first ones."""
_K1, _B = 1.2, 0.75  # as in Robertson & Zaragoza 2009, and nearly everywhere since
_WORD = re.compile(r"[^\W_]+")
_LONGEST = 64  # characters of a word; what is longer is no word but data
_FILL = 1_000  # versions read at once when the index is made anew
_COUNT = """SELECT value, (SELECT count(*) FROM (
    SELECT 1 FROM words WHERE words MATCH '"' || value || '"' AND rowid <= ? LIMIT ?)) FROM json_each(?)"""
_FIND = "SELECT value, (SELECT group_concat(doc) FROM words_at WHERE term = value AND doc <= ?) FROM json_each(?)"
_CHECKED = (64, 1_024, MOST_POSTINGS)  # of the best so far, so many are looked up in the scope at once


def words_of(text: str) -> list[str]:
    """The words of a text, letters and digits in lower case, in order.

    >>> words_of("Open the RED_door (2nd)!")
    ['open', 'the', 'red', 'door', '2nd']
    """
    return [word[:_LONGEST] for word in _WORD.findall(encodable(text).lower())]


def absence(connection: Connection) -> str | None:
    """Why there is no lexical arm, in words; None if there is one."""
    if connection.dialect.name != "sqlite":
        return f"words are searched by SQLite's FTS5, and the journal is in {connection.dialect.name}"
    made = connection.exec_driver_sql("SELECT count(*) FROM sqlite_master WHERE name = 'words_at'").scalar()
    return None if made else "this SQLite was built without FTS5"


def prepare(connection: Connection) -> None:
    """Make the index of words where there is none and one can be, over all that the journal holds."""
    if connection.dialect.name != "sqlite" or absence(connection) is None:
        return
    try:  # the table keeps no text but its words and their places; `ascii` leaves the words as `words_of` made them
        connection.exec_driver_sql(
            "CREATE VIRTUAL TABLE words USING fts5(text, content='', columnsize=0, tokenize='ascii')"
        )
    except OperationalError as error:
        if "no such module" in str(error):
            return
        raise
    connection.exec_driver_sql("CREATE VIRTUAL TABLE words_at USING fts5vocab(words, 'instance')")
    remake(connection)


def add(connection: Connection, first: int, versions: Sequence[Memory]) -> None:
    """Index versions numbered from `first` on, within the transaction that appends them."""
    if absence(connection) is None:
        _insert(connection, zip(itertools.count(first), versions))


def remake(connection: Connection) -> None:
    """Make the index anew from what the journal still holds: what was forgotten is in no part of it any more.

    FTS5 merely marks what is deleted, and keeps it until it merges; hence from the beginning. The state `words` counts
    how often that was done, for those who keep in memory what they have read.
    """
    known = int(journal.read_state(connection).get("words", 0))
    journal.write_state(connection, words=known + 1)
    if absence(connection) is not None:
        return
    connection.exec_driver_sql("INSERT INTO words(words) VALUES ('delete-all')")
    connection.execute(delete(word_counts))
    last = 0
    while True:
        query = select(memories).where(memories.c.seq > last, memories.c.draft != "").order_by(memories.c.seq)
        rows = connection.execute(query.limit(_FILL)).all()
        if not rows:
            return
        _insert(connection, ((row.seq, memory_of(row)) for row in rows))
        last = rows[-1].seq


def _insert(connection: Connection, numbered: Iterable[tuple[int, Memory]]) -> None:
    words = [(seq, words_of("\n".join([one.text, *one.keys.values()]))) for seq, one in numbered]
    if words:
        texts = [(seq, " ".join(found)) for seq, found in words]
        connection.exec_driver_sql("INSERT INTO words(rowid, text) VALUES (?, ?)", texts)
        connection.execute(insert(word_counts), [{"seq": seq, "num_words": len(found)} for seq, found in words])


@dataclass
class Lexical:
    """Searches the words of one journal; keeps the length of every version in memory. One thread at a time."""

    _made: int = -1
    """Which making of the index is known."""
    _lengths: np.ndarray = field(default_factory=lambda: np.zeros(1, np.int64))
    """[last version + 1] words of each version; 0 where one is forgotten."""
    _common: dict[str, int] = field(default_factory=dict)
    """Word -> number of a version by which it stood in too many."""

    def search(
        self, connection: Connection, text: str, k: int, scope: Scope, also: Collection[int] = ()
    ) -> dict[int, float]:
        """Scores by sequence number of the `k` memories in scope that hold most of the words of a text.

        BM25 (Robertson & Zaragoza 2009, eq. 3.15), divided by what the words are worth together, unknown ones
        included: 1 is a memory of common length that holds every word once. The idf is log(1 + (N - n + ½) / (n + ½)),
        which is never below 0; N, n and the common length count all versions up to the snapshot, in scope or not.

        Args:
            connection: A transaction on a journal that has the index, see `absence`.
            text: Anything; only its words count, its first 4,000 characters and `MOST_WORDS` different words.
            k: At most this many.
            scope: Which memories.
            also: Versions in scope whose scores are wanted besides, if they have any.
        """
        if scope.newest == 0:
            return {}
        self._read_lengths(connection, scope.newest)
        wanted = list(dict.fromkeys(words_of(text[:KEY_LIMIT])))[:MOST_WORDS]
        num_of = self._count(connection, wanted, scope.newest)
        idf_of = {word: math.log1p((scope.newest - n + 0.5) / (n + 0.5)) for word, n in num_of.items()}
        seqs, scores = self._score(connection, _rarest(num_of), idf_of, scope.newest)
        scores = scores / max(sum(idf_of.values()), 1e-12)
        best = _in_scope(connection, seqs, scores, k, scope)
        return best | {int(seqs[row]): float(scores[row]) for row in np.flatnonzero(np.isin(seqs, list(also)))}

    def _read_lengths(self, connection: Connection, newest: int) -> None:
        made = int(journal.read_state(connection).get("words", 0))
        if made != self._made:
            self._made, self._lengths, self._common = made, np.zeros(1, np.int64), {}
        known = len(self._lengths) - 1
        if newest > known:
            query = select(word_counts).where(word_counts.c.seq > known, word_counts.c.seq <= newest)
            grown = np.zeros(newest + 1, np.int64)
            grown[: known + 1] = self._lengths
            for seq, num_words in connection.execute(query):
                grown[seq] = num_words
            self._lengths = grown

    def _count(self, connection: Connection, words: Sequence[str], newest: int) -> dict[str, int]:
        """Word -> the versions it stands in, for those that are not in too many."""
        asked = [word for word in words if self._common.get(word, newest + 1) > newest]
        given = (newest, MOST_DOCUMENTS + 1, json.dumps(asked))
        num_of: dict[str, int] = dict(tuple(row) for row in connection.exec_driver_sql(_COUNT, given))
        for word in asked:
            if num_of[word] > MOST_DOCUMENTS:
                self._common[word] = newest
                del num_of[word]
        return num_of

    def _score(
        self, connection: Connection, words: Sequence[str], idf_of: Mapping[str, float], newest: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """[N] versions that hold one of the words, [N] their BM25."""
        mean = max(float(self._lengths[: newest + 1].sum()) / newest, 1.0)
        held, gains = [np.zeros(0, np.int64)], [np.zeros(0)]
        for word, places in connection.exec_driver_sql(_FIND, (newest, json.dumps(words))):
            seqs, times = np.unique(_numbers(places), return_counts=True)
            long = _K1 * (1.0 - _B + _B * self._lengths[seqs] / mean)
            held.append(seqs)
            gains.append(idf_of[word] * times * (_K1 + 1.0) / (times + long))
        seqs, place_of = np.unique(np.concatenate(held), return_inverse=True)
        return seqs, np.bincount(place_of, np.concatenate(gains), len(seqs))


def _rarest(num_of: Mapping[str, int]) -> list[str]:
    """The words to search for, rarest first, and equals in the order given."""
    rare = sorted((word for word, num in num_of.items() if num), key=lambda word: num_of[word])
    upto = itertools.accumulate(num_of[word] for word in rare)
    return [word for word, num in zip(rare, upto, strict=True) if num <= MOST_POSTINGS]


def _in_scope(connection: Connection, seqs: np.ndarray, scores: np.ndarray, k: int, scope: Scope) -> dict[int, float]:
    """The `k` best that are in scope, equals by number."""
    order = np.lexsort((seqs, -scores.round(12)))
    if scope.narrow:  # likely to hold less than was found, and then quicker to list
        some = select(memories.c.seq).where(*scope.conditions()).limit(MOST_POSTINGS)
        listed = _numbers(connection.execute(select(func.group_concat(some.subquery().c.seq))).scalar())
        if len(listed) < MOST_POSTINGS:
            rows = order[np.isin(seqs[order], listed)][:k]
            return dict(zip(seqs[rows].tolist(), scores[rows].tolist(), strict=True))
    best: dict[int, float] = {}
    start = 0
    for size in _CHECKED:
        rows = order[start : start + size]
        if len(best) >= k or not len(rows):
            break
        given = func.json_each(json.dumps(seqs[rows].tolist())).table_valued("value")
        query = select(memories.c.seq).where(memories.c.seq.in_(select(given.c.value)))
        seen = set(connection.execute(query.where(*scope.conditions(by_index=False))).scalars())
        best |= {int(seqs[row]): float(scores[row]) for row in rows if int(seqs[row]) in seen}
        start += size
    return dict(itertools.islice(best.items(), k))


def _numbers(listed: str | None) -> np.ndarray:
    """[N] the numbers in what `group_concat` gives, which is read many times as fast as rows are."""
    return np.fromstring(listed or "", np.int64, sep=",")
