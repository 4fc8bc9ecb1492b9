"""The lexical arm: memories that hold the words of a situation, by BM25 over their text and keys.

SQLite's FTS5 keeps the index of words, beside the journal and in its transactions. The score is worked out here, from
the versions that can be recalled at the snapshot that is read: the same snapshot gives the same numbers for ever, and
what is superseded, retired or in quarantine moves none of them.
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
from agentkit.memory.planner import RECALLED, Scope
from agentkit.memory.records import encodable

MOST_DOCUMENTS = 4_000
"""A word in more versions than this, be they recalled or not, tells little and costs much: it is not searched for, and
not part of what a text is worth. A number and not a share, so that a word once left out stays out, which need not be
found out again."""
MOST_POSTINGS = 4_000
"""Words are searched for from the rarest on, until they stand in this many versions that can be recalled together."""
MOST_READ = 16_000
"""The same, of versions that are recalled or not: where most are not, they are read in vain."""
MOST_WORDS = 64
"""Different words of a query that are looked at, its first ones."""
MOST_KEPT = 2_000_000
"""Of this many numbers, the versions in which words stand are kept in memory; then all are read anew."""
_K1, _B = 1.2, 0.75  # as in Robertson & Zaragoza 2009, and nearly everywhere since
_WORD = re.compile(r"[^\W_]+")
_LONGEST = 64  # characters of a word; what is longer is no word but data
_FILL = 1_000  # versions read at once when the index is made anew
_STAND = """SELECT json_extract(value, '$[0]'), (SELECT group_concat(rowid) FROM (
    SELECT rowid FROM words WHERE words MATCH '"' || json_extract(value, '$[0]') || '"'
    AND rowid > json_extract(value, '$[1]') AND rowid <= ? ORDER BY rowid LIMIT ?)) FROM json_each(?)"""
_FIND = "SELECT value, (SELECT group_concat(doc) FROM words_at WHERE term = value AND doc <= ?) FROM json_each(?)"
_VERSIONS = """SELECT one.seq, one.status IN (SELECT value FROM json_each(?)), coalesce(num_words, 0),
    (SELECT max(seq) FROM versions AS other WHERE other.id = one.id AND other.seq < one.seq)
    FROM versions AS one LEFT JOIN word_counts ON word_counts.seq = one.seq WHERE one.seq > ? AND one.seq <= ?"""
_OPEN = np.iinfo(np.int64).max  # where a version ends that none follows
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
class _Versions:
    """What the score needs to know of all versions of a journal, by their numbers; number 0 is none."""

    lengths: np.ndarray = field(default_factory=lambda: np.zeros(1, np.int64))
    """[last version + 1] words of each version; 0 where one is forgotten."""
    recalled: np.ndarray = field(default_factory=lambda: np.zeros(1, np.bool_))
    """[last version + 1] whether its status is one that is recalled."""
    ended: np.ndarray = field(default_factory=lambda: np.zeros(1, np.int64))
    """[last version + 1] number of the version of the same memory that follows it, as far as versions are known."""
    born: np.ndarray = field(default_factory=lambda: np.zeros(1, np.int64))
    """[last version + 1] number of the first version of the same memory."""

    def grow(self, connection: Connection, newest: int) -> None:
        """Learn of the versions up to a number; what they follow is found by the journal's index of ids."""
        known = len(self.lengths) - 1
        if newest <= known:
            return
        given = (json.dumps(RECALLED), known, newest)
        rows = [tuple(row) for row in connection.exec_driver_sql(_VERSIONS, given)]
        grown = np.arange(known + 1, newest + 1)
        self.lengths = np.append(self.lengths, np.zeros_like(grown))
        self.recalled = np.append(self.recalled, np.zeros_like(grown, np.bool_))
        self.ended = np.append(self.ended, np.full_like(grown, _OPEN))
        self.born = np.append(self.born, grown)
        seqs = np.array([row[0] for row in rows])
        self.recalled[seqs] = [row[1] for row in rows]
        self.lengths[seqs] = [row[2] for row in rows]
        for seq, before in sorted((row[0], row[3]) for row in rows if row[3] is not None):
            self.ended[before], self.born[seq] = seq, self.born[before]

    def standing(self, newest: int) -> np.ndarray:
        """[newest + 1] whether each version can be recalled at the snapshot that sees up to `newest`."""
        return self.recalled[: newest + 1] & (self.ended[: newest + 1] > newest)


@dataclass
class Lexical:
    """Searches the words of one journal; keeps numbers of every version in memory. One thread at a time."""

    _made: int = -1
    """Which making of the index is known."""
    _versions: _Versions = field(default_factory=_Versions)
    _stands: dict[str, tuple[int, np.ndarray]] = field(default_factory=dict)
    """Word -> up to which version it was looked for, and the first `MOST_DOCUMENTS` + 1 that it stands in."""
    _num_kept: int = 0
    """Numbers in `_stands`, about."""

    def search(
        self, connection: Connection, text: str, k: int, scope: Scope, also: Collection[int] = ()
    ) -> dict[int, float]:
        """Scores by sequence number of the `k` memories in scope that hold most of the words of a text.

        BM25 (Robertson & Zaragoza 2009, eq. 3.15), divided by what the words are worth together, unknown ones
        included: 1 is a memory of common length that holds every word once. The idf is log(1 + (N - n + ½) / (n + ½)),
        which is never below 0. N, n and the common length are those of the versions that can be recalled at the
        snapshot, in scope or not: newest then, and of a status that is recalled. So what was written and taken back
        leaves scores as they were, and equals are in the order in which their memories were first written.

        That is exact where no word stands in more than `MOST_DOCUMENTS` versions, and those to be searched for in no
        more than `MOST_READ`, all counted. A word beyond the former is left out and stays out, whatever becomes of the
        versions; of words beyond the latter the rarest are searched for, and the others only make a text worth more.

        Args:
            connection: A transaction on a journal that has the index, see `absence`.
            text: Anything; only its words count, its first 4,000 characters and `MOST_WORDS` different words.
            k: At most this many.
            scope: Which memories.
            also: Versions in scope whose scores are wanted besides, if they have any.
        """
        if scope.newest == 0:
            return {}
        self._keep_up(connection, scope.newest)
        standing = self._versions.standing(scope.newest)
        total = int(standing.sum())
        if total == 0:
            return {}
        wanted = list(dict.fromkeys(words_of(text[:KEY_LIMIT])))[:MOST_WORDS]
        held_of = self._look_up(connection, wanted, scope.newest)
        num_of = {word: int(standing[held].sum()) for word, held in held_of.items()}
        idf_of = {word: math.log1p((total - n + 0.5) / (n + 0.5)) for word, n in num_of.items()}
        words = _rarest(num_of, {word: len(held) for word, held in held_of.items()})
        seqs, scores = self._score(connection, words, idf_of, standing)
        scores = scores / max(sum(idf_of.values()), 1e-12)
        order = np.lexsort((self._versions.born[seqs], -scores.round(12)))
        best = _in_scope(connection, seqs[order], scores[order], k, scope)
        return best | {int(seqs[row]): float(scores[row]) for row in np.flatnonzero(np.isin(seqs, list(also)))}

    def _keep_up(self, connection: Connection, newest: int) -> None:
        made = int(journal.read_state(connection).get("words", 0))
        if made != self._made:
            self._made, self._versions, self._stands, self._num_kept = made, _Versions(), {}, 0
        self._versions.grow(connection, newest)

    def _look_up(self, connection: Connection, words: Sequence[str], newest: int) -> dict[str, np.ndarray]:
        """Word -> the versions it stands in up to `newest`, for those that are not in too many."""
        if self._num_kept > MOST_KEPT:
            self._stands, self._num_kept = {}, 0
        known = {word: self._stands.get(word, (0, _numbers(None))) for word in words}
        asked = [(word, upto) for word, (upto, held) in known.items() if upto < newest and len(held) <= MOST_DOCUMENTS]
        given = (newest, MOST_DOCUMENTS + 1, json.dumps(asked))
        for word, listed in connection.exec_driver_sql(_STAND, given) if asked else ():
            held = np.append(known[word][1], _numbers(listed))[: MOST_DOCUMENTS + 1]
            self._num_kept += len(held) - len(known[word][1]) + (word not in self._stands)
            known[word] = self._stands[word] = newest, held
        held_of = {word: held[: np.searchsorted(held, newest, "right")] for word, (_, held) in known.items()}
        return {word: held for word, held in held_of.items() if len(held) <= MOST_DOCUMENTS}

    def _score(
        self, connection: Connection, words: Sequence[str], idf_of: Mapping[str, float], standing: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """[N] versions that can be recalled and hold one of the words, [N] their BM25."""
        lengths = self._versions.lengths[: len(standing)]
        mean = max(float(lengths[standing].mean()), 1.0)
        found, gains = [_numbers(None)], [np.zeros(0)]
        for word, places in connection.exec_driver_sql(_FIND, (len(standing) - 1, json.dumps(words))):
            numbers = _numbers(places)
            seqs, times = np.unique(numbers[standing[numbers]], return_counts=True)
            long = _K1 * (1.0 - _B + _B * lengths[seqs] / mean)
            found.append(seqs)
            gains.append(idf_of[word] * times * (_K1 + 1.0) / (times + long))
        seqs, place_of = np.unique(np.concatenate(found), return_inverse=True)
        return seqs, np.bincount(place_of, np.concatenate(gains), len(seqs))


def _rarest(num_of: Mapping[str, int], num_read_of: Mapping[str, int]) -> list[str]:
    """The words to search for, rarest first, and equals in the order given.

    Args:
        num_of: Versions that each stands in and that can be recalled.
        num_read_of: Versions that each stands in.
    """
    rare = sorted((word for word, num in num_of.items() if num), key=lambda word: num_of[word])
    upto = itertools.accumulate(num_of[word] for word in rare)
    read = itertools.accumulate(num_read_of[word] for word in rare)
    limits = zip(rare, upto, read, strict=True)
    return [word for word, num, num_read in limits if num <= MOST_POSTINGS and num_read <= MOST_READ]


def _in_scope(connection: Connection, seqs: np.ndarray, scores: np.ndarray, k: int, scope: Scope) -> dict[int, float]:
    """The first `k` of the versions that are in scope."""
    if scope.narrow:  # likely to hold less than was found, and then quicker to list
        some = select(memories.c.seq).where(*scope.conditions()).limit(MOST_POSTINGS)
        listed = _numbers(connection.execute(select(func.group_concat(some.subquery().c.seq))).scalar())
        if len(listed) < MOST_POSTINGS:
            rows = np.flatnonzero(np.isin(seqs, listed))[:k]
            return dict(zip(seqs[rows].tolist(), scores[rows].tolist(), strict=True))
    best: dict[int, float] = {}
    start = 0
    for size in _CHECKED:
        checked = seqs[start : start + size].tolist()
        if len(best) >= k or not checked:
            break
        given = func.json_each(json.dumps(checked)).table_valued("value")
        query = select(memories.c.seq).where(memories.c.seq.in_(select(given.c.value)))
        seen = set(connection.execute(query.where(*scope.conditions(by_index=False))).scalars())
        rated = zip(checked, scores[start : start + size].tolist(), strict=True)
        best |= {seq: score for seq, score in rated if seq in seen}
        start += size
    return dict(itertools.islice(best.items(), k))


def _numbers(listed: str | None) -> np.ndarray:
    """[N] the numbers in what `group_concat` gives, which is read many times as fast as rows are."""
    return np.fromstring(listed or "", np.int64, sep=",")
