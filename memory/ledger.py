"""Ledger: which memories were shown, how it ended, and what follows for their worth; kept in the journal, beside them.

Exposures are recorded when something is recalled, outcomes when the log is read, in any order; what has no counterpart
is kept and not counted. Neither belongs to the versions: snapshots do not see them and `undo` does not touch them.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import Connection, bindparam, delete, func, select, update

from agentkit.errors import ConfigError
from agentkit.memory.exposure import Candidate, Exposure, Outcome, episode_key
from agentkit.memory.journal import read_state, write_state
from agentkit.memory.layout import candidates, exposures, judgements, outcomes
from agentkit.memory.records import Episode
from agentkit.memory.trials import Trials
from agentkit.memory.utility import UNKNOWN, Utility, estimate_trials, estimate_whole

if TYPE_CHECKING:
    from agentkit.memory.database import Database
    from agentkit.memory.log import EpisodeLog

HALF_LIFE = 50.0
"""Policy versions after which an exposure counts half, where a version to look back from is given. Chosen."""
_BATCH = 256  # episodes settled in one transaction
_ERASED = "ledger_erased"
_EXPOSE = (
    "INSERT INTO exposures (id, episode_key, task_key, context, held_out, holdout, policy_version, time_s) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING"
)
_PROPOSE = "INSERT INTO candidates (exposure, place, memory, score, propensity, position) VALUES (?, ?, ?, ?, ?, ?)"
_SETTLE = "INSERT INTO outcomes (episode_key, episode_id, value) VALUES (?, ?, ?) ON CONFLICT (episode_key) DO NOTHING"


class Shown(NamedTuple):
    """How often a memory was a candidate."""

    shown: int
    hidden: int
    """By its coin; or because there was no place, or the episode was held out."""


class Ledger:
    """Exposures and outcomes of one memory store; `MemoryStore.ledger`. May be shared by threads.

    Args:
        database: The journal of the store.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._guard = threading.Lock()
        self._trials = Trials()
        self._read = (0, 0, "0")
        self._found: dict[tuple[str | None, int | None, float | None], dict[str, Utility]] = {}

    def record(self, exposure: Exposure) -> None:
        """Write down an exposure; one whose id is known is passed over."""
        self.record_many([exposure])

    def record_many(self, drawn: Iterable[Exposure]) -> int:
        """Write down exposures in one transaction; returns how many were new."""
        new = 0
        with self._database.writing() as connection:
            for one in drawn:
                values = (one.id, one.episode_key, one.task_key, one.context, int(one.held_out), one.holdout)
                inserted = connection.exec_driver_sql(_EXPOSE, _fit(*values, one.policy_version, one.time_s))
                if not inserted.rowcount:
                    continue
                new += 1
                rows = [
                    _fit(inserted.lastrowid, place, *(c.memory_id, c.score, c.propensity, c.position))
                    for place, c in enumerate(one.candidates)
                ]
                if rows:
                    connection.exec_driver_sql(_PROPOSE, rows)
        return new

    def settle(self, episodes: Iterable[Episode]) -> int:
        """Write down what the environment says of episodes, failures too; returns how many were new.

        The first outcome of an episode key stays: an attempt that broke off failed, even if it is played again.
        """
        with self._database.writing() as connection:
            return self._settle(connection, episodes)

    def settle_from(self, log: EpisodeLog) -> int:
        """Settle what was recorded in `log` since the last call with it; returns how many were new."""
        cursor = f"settled:{log.id}"
        with self._database.reading() as connection:
            after = int(read_state(connection).get(cursor, 0))
        new, batch, last = 0, list[Episode](), after
        for last, episode in log.numbered(after=after):
            batch.append(episode)
            if len(batch) == _BATCH:
                new += self._advance(batch, cursor, last)
                batch = []
        return new + self._advance(batch, cursor, last) if batch else new

    def judge(self, values: Mapping[str, float], judge: str) -> None:
        """Keep what a model says of episodes, episode key -> 0 to 1, apart from all else; the last word stays.

        Raises:
            ConfigError: A value is not within 0 and 1.
        """
        wrong = [key for key, value in values.items() if not 0.0 <= value <= 1.0]
        if wrong:
            raise ConfigError(f"the judgement of episode {wrong[0]!r} is {values[wrong[0]]}; give 0 to 1")
        said = [{"episode_key": _storable(key), "judge": judge, "value": value} for key, value in values.items()]
        with self._database.writing() as connection:
            for row in said:
                mine = [judgements.c.episode_key == row["episode_key"], judgements.c.judge == judge]
                connection.execute(delete(judgements).where(*mine))
                connection.execute(judgements.insert(), row)

    def judgements(self, judge: str) -> dict[str, Outcome]:
        """What a model has said: episode key -> outcome."""
        with self._database.reading() as connection:
            rows = connection.execute(select(judgements).where(judgements.c.judge == judge))
            return {row.episode_key: Outcome(value=row.value, judge="model") for row in rows}

    def utilities(
        self,
        ids: Iterable[str] | None = None,
        context: str | None = None,
        policy_version: int | None = None,
        *,
        half_life: float = HALF_LIFE,
    ) -> dict[str, Utility]:
        """What memories are worth, by id; kept until new rows arrive.

        Args:
            ids: Which; those without a coin are `UNKNOWN`. None for all that were candidates.
            context: In this context only.
            policy_version: To a policy of this version: exposures count half for each `half_life` versions it is ahead
                of them. None counts all alike.
            half_life: See there.
        """
        with self._guard:
            self._refresh()
            asked = (context, policy_version, None if policy_version is None else half_life)
            found = self._found.get(asked)
            if found is None:
                found = estimate_trials(
                    self._trials, context=context, half_life=asked[2], policy_version=policy_version
                )
                found = self._found[asked] = {id: one for id, one in found.items() if not id.startswith(_GONE)}
        return dict(found) if ids is None else {id: found.get(id, UNKNOWN) for id in ids}

    def chances(self, ids: Iterable[str] | None = None, context: str | None = None) -> dict[str, float]:
        """Probability that each memory helps, for Thompson sampling in `Exploration.draw`; one half where unknown."""
        return {id: utility.chance for id, utility in self.utilities(ids, context).items()}

    def num_coins(self) -> dict[str, int]:
        """Episodes with an outcome in which a coin was tossed for a memory, for young ones in `Exploration.draw`."""
        return {id: utility.num_shown + utility.num_hidden for id, utility in self.utilities().items()}

    def effect_of_memory(self) -> Utility:
        """What memory as a whole does to success: episodes with it against those held out."""
        with self._guard:
            self._refresh()
            return estimate_whole(self._trials)

    def shown(self, id: str) -> Shown:
        """How often a memory was shown and not shown, with or without an outcome."""
        with self._database.reading() as connection:
            query = select(func.count(), func.count(candidates.c.position)).where(candidates.c.memory == id)
            total, shown = connection.execute(query).one()
        return Shown(shown, total - shown)

    def counts(self) -> dict[str, int]:
        """Number of exposures, of outcomes, and of episodes that have both."""
        with self._database.reading() as connection:
            num = {
                table.name: connection.execute(select(func.count()).select_from(table)).scalar_one() for table in _ALL
            }
            both = select(func.count(outcomes.c.number)).where(
                outcomes.c.episode_key.in_(select(exposures.c.episode_key))
            )
            return {**num, "both": connection.execute(both).scalar_one()}

    def exposures(self, episode: str) -> list[Exposure]:
        """What an episode was shown, by its `episode_key`; candidates that are forgotten are left out."""
        with self._database.reading() as connection:
            heads = connection.execute(select(exposures).where(exposures.c.episode_key == episode)).all()
            return [_exposure(connection, row) for row in heads]

    def _advance(self, episodes: list[Episode], cursor: str, seq: int) -> int:
        with self._database.writing() as connection:
            new = self._settle(connection, episodes)
            write_state(connection, **{cursor: seq})
        return new

    def _settle(self, connection: Connection, episodes: Iterable[Episode]) -> int:
        new = 0
        for episode in episodes:
            key = episode_key(episode.group_id, episode.attempt) if episode.group_id else episode.id
            values = _fit(key, episode.id, float(episode.success))
            new += connection.exec_driver_sql(_SETTLE, values).rowcount
        return new

    def _refresh(self) -> None:
        """Read the rows that are new; everything, if something was erased."""
        with self._database.reading() as connection:
            erased = read_state(connection).get(_ERASED, "0")
            now = (_last(connection, exposures.c.number), _last(connection, outcomes.c.number), erased)
            if now == self._read:
                return
            if erased != self._read[2]:
                self._trials, self._read = Trials(), (0, 0, erased)
            seen, settled, _ = self._read
            self._found = {}
            ended = select(outcomes.c.episode_key, outcomes.c.value).where(outcomes.c.number > settled)
            for key, value in connection.execute(ended):
                self._trials.settle(key, value)
            named: dict[int, list[tuple[str, bool, float]]] = {}
            at = candidates.c
            listed = select(at.exposure, at.place, at.memory, at.position, at.propensity).where(at.exposure > seen)
            for number, place, id, position, propensity in connection.execute(listed.order_by(at.exposure, at.place)):
                tossed = (id or f"{_GONE}{place}", position is not None, propensity)
                named.setdefault(number, []).append(tossed)
            for row in connection.execute(
                select(exposures).where(exposures.c.number > seen).order_by(exposures.c.number)
            ):
                about = (
                    row.episode_key,
                    row.task_key,
                    row.context,
                    row.policy_version,
                    bool(row.held_out),
                    row.holdout,
                )
                self._trials.see(*about, named.get(row.number, ()))
            self._read = now


_ALL = (exposures, outcomes, judgements)
_GONE = "\x00forgotten "
"""Begins the name under which a forgotten memory's coins are still read: the others of its exposure stay in order."""


def erase(connection: Connection, ids: Iterable[str], episode_id: str | None = None) -> int:
    """Take out of the ledger which exposures were of these memories, and all of an episode; returns the rows changed.

    An exposure stays, so that nothing changes for the others in it, but of a forgotten memory only that something was
    there: neither its id nor its relevance. Of a forgotten episode nothing stays.
    """
    changed = 0
    one = update(candidates).where(candidates.c.memory == bindparam("id")).values(memory="", score=0.0)
    for id in ids:
        changed += connection.execute(one, {"id": id}).rowcount
    if episode_id is not None:
        found = select(outcomes.c.episode_key).where(outcomes.c.episode_id == episode_id)
        for key in connection.execute(found).scalars().all():
            numbers = select(exposures.c.number).where(exposures.c.episode_key == key)
            for table, column in ((candidates, candidates.c.exposure), (exposures, exposures.c.number)):
                changed += connection.execute(delete(table).where(column.in_(numbers))).rowcount
            for said in (outcomes, judgements):
                changed += connection.execute(delete(said).where(said.c.episode_key == key)).rowcount
    if changed:
        write_state(connection, **{_ERASED: int(read_state(connection).get(_ERASED, 0)) + 1})
    return changed


def _last(connection: Connection, column: Any) -> int:
    return connection.execute(select(func.max(column))).scalar() or 0


def _exposure(connection: Connection, row: Any) -> Exposure:
    query = select(candidates).where(candidates.c.exposure == row.number, candidates.c.memory != "")
    listed = [
        Candidate(
            memory_id=one.memory,
            score=one.score,
            propensity=one.propensity,
            shown=one.position is not None,
            position=one.position,
        )
        for one in connection.execute(query.order_by(candidates.c.place))
    ]
    said = {name: value for name, value in row._mapping.items() if name != "number"}
    return Exposure(**{**said, "held_out": bool(row.held_out)}, candidates=tuple(listed))


def _fit(*values: object) -> tuple[object, ...]:
    return tuple(_storable(value) if isinstance(value, str) else value for value in values)


def _storable(text: str) -> str:
    """Text as SQLite can keep it, distinct for distinct texts: what UTF-8 cannot carry is escaped."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace").decode()
    return text
