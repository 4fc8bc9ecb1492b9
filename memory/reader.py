"""Reader: from a situation to the memories that are worth showing in it, each with the reasons.

Arms search, `fuse` makes one relevance of what they found, `rank_factors` adds what else is known, a threshold may
refuse, `agree` drops what the others outvote, and `select` fits the best into a token budget. Nothing depends on the
clock, nor on what was written after the snapshot that is read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Annotated, NamedTuple, Unpack

import numpy as np
from pydantic import Field

from agentkit.errors import ConfigError
from agentkit.memory import fusion, journal, ranking, selection
from agentkit.memory.abstention import Abstention
from agentkit.memory.arms import ARMS, DEFAULT_ARMS, Arms, Situation
from agentkit.memory.consensus import ConsensusSettings, Recommendation, agree, recommended
from agentkit.memory.fusion import ArmFit, ArmWeights, Query
from agentkit.memory.journal import memory_of, read_state, write_state
from agentkit.memory.kinds import Memory, Trust
from agentkit.memory.lexical import words_of
from agentkit.memory.log import EpisodeLog
from agentkit.memory.passages import Passages
from agentkit.memory.planner import ScopeOptions
from agentkit.memory.ranking import Columns, RankWeights, Signals
from agentkit.memory.records import Record
from agentkit.memory.selection import Candidate, Similarity
from agentkit.memory.store import MemoryStore
from agentkit.memory.utility import Utility, as_factor

_COMPARED = 2_000  # characters of a text by which it is told whether two say the same


class ReadSettings(Record):
    """How memories are found, ranked and chosen."""

    arms: ArmWeights = DEFAULT_ARMS
    """Weight of each of `ARMS` where the store has none fitted."""
    rank: RankWeights = RankWeights()
    """Strengths of the factors, and the relevance below which nothing is shown."""
    consensus: ConsensusSettings | None = ConsensusSettings()
    """How memories that recommend different actions are weighed against each other; None shows them all."""
    pool: Annotated[int, Field(ge=1, le=200)] = 32
    """Memories that each arm gives, and of which those of the greatest relevance are ranked."""
    budget_tokens: Annotated[int, Field(ge=0)] = 2_000
    """Tokens that all memories shown may take together."""
    diversity: Annotated[float, Field(ge=0.0, le=1.0)] = 0.3
    """0 chooses by score alone, 1 by how different the texts are."""
    per_source: Annotated[int, Field(ge=1)] = 1
    """How many memories of one episode are shown."""
    with_failure: bool = False
    """Keep a place for one example of what not to do, if there is one."""
    margin: Annotated[float, Field(ge=0.0, allow_inf_nan=False)] = 0.2
    """By what share a newcomer must score more to take the place of what an attempt is shown (`MemoryRecall`)."""
    passage_turns: Annotated[int, Field(ge=1)] = 8
    """Turns of the passage that is shown of an episode more than twice as long, if the reader has the log."""


class Read(NamedTuple):
    """A memory for a situation, and why."""

    memory: Memory
    """Its score is the product of `factors`; its text is the passage that matters, where one was picked."""
    factors: dict[str, float]
    """relevance, utility, recency, importance, trust."""
    arms: dict[str, float]
    """What each arm that looked at it said."""
    tokens: int
    """Tokens of its text."""

    @property
    def candidate(self) -> Candidate:
        """The memory as `select` and `Hysteresis` see it."""
        memory = self.memory
        source = memory.episode_id if memory.kind in ("episode", "step", "failure") else ""
        return Candidate(memory.id, memory.score or 0.0, self.tokens, source, memory.kind)


def tokens_in(text: str) -> int:
    """Tokens of a text, guessed: one for four bytes.

    >>> tokens_in("open the red door")
    5
    """
    return math.ceil(len(text.encode()) / 4)


def explain(read: Read) -> str:
    """One line that says where a score comes from: the factors that are not 1, and what the arms said."""
    score = ranking.explain(ranking.Scored(read.memory.score or 0.0, read.factors))
    arms = ", ".join(f"{name} {value:.3f}" for name, value in sorted(read.arms.items()))
    return f"{read.memory.id} ({read.memory.kind}): {score} [{arms}]"


class Reader:
    """Reads one store; may be shared by threads.

    The weights and the threshold that were fitted to the store are taken when a reader is made: what another one fits
    later changes nothing for it.

    Args:
        store: Open as long as this is used.
        settings: See `ReadSettings`.
        log: Episodes the memories were made from; with it, long ones are shown by the passage that matters.
        count_tokens: Tokens of a text, as the policy counts them.
    """

    def __init__(
        self,
        store: MemoryStore,
        settings: ReadSettings | None = None,
        *,
        log: EpisodeLog | None = None,
        count_tokens: Callable[[str], int] = tokens_in,
    ) -> None:
        self.store = store
        self.settings = settings or ReadSettings()
        self._count_tokens = count_tokens
        self._passages = Passages(log, self.settings.passage_turns) if log is not None else None
        self._arms = Arms(store)
        self.absent = self._arms.absent
        """Arms that there are not, and why."""
        weights, threshold = self._kept("arms"), self._kept("abstention")
        self.weights = self.settings.arms if weights is None else ArmWeights.model_validate_json(weights)
        """What arms are fused with: weights fitted to this store and its embedder, else those of the settings."""
        self.abstention = None if threshold is None else Abstention.model_validate_json(threshold)
        """The threshold that was fitted to this store, or None."""
        for name in self.weights.weights:
            if name not in ARMS:
                raise ConfigError(f"there is no arm {name!r} to give a weight; the arms are {', '.join(ARMS)}")

    def read(
        self,
        situation: Situation,
        most: int = 3,
        *,
        utilities: Mapping[str, Utility] | None = None,
        **options: Unpack[ScopeOptions],
    ) -> list[Read]:
        """The memories to show in a situation, greatest score first; none where none is worth it.

        Args:
            situation: Where the agent is.
            most: At most this many, in at most `budget_tokens` tokens.
            utilities: Memory id -> how much it has helped; nothing is known of one that is not there.
            **options: Which memories may be read, as in `MemoryStore.recall`: env_id, split, exclude_tasks, snapshot,
                kinds, namespaces, at_s.

        Raises:
            RecordError: The snapshot is not one of the store, a namespace is not granted, or the journal cannot be
                read.
        """
        reads = self.rank(situation, utilities=utilities, **options)
        by_id = {read.memory.id: read for read in reads}
        return [by_id[one.id] for one in self.select([read.candidate for read in reads], reads, most)]

    def rank(
        self,
        situation: Situation,
        *,
        utilities: Mapping[str, Utility] | None = None,
        also: Collection[str] = (),
        **options: Unpack[ScopeOptions],
    ) -> list[Read]:
        """All memories found that are relevant enough to be shown, greatest score first and equals by id.

        What the others outvote, or only untrusted memories recommend, is not among them.

        Args:
            situation: Where the agent is.
            utilities: As in `read`.
            also: Ids of memories that are ranked too, found or not, as far as they are in scope.
            **options: As in `read`.

        Raises:
            RecordError: As in `read`.
        """
        with self.store.database.reading() as connection:
            scope = self.store.scope(connection, **options)
            if scope.newest == 0:
                return []
            arms, seq_of = self._arms.search(connection, situation, self.settings.pool, scope, also)
            relevance = self._relevance(arms)
            wanted = {*list(relevance)[: self.settings.pool], *relevance.keys() & set(also)}
            seqs = {seq_of[id] for id in wanted}
            rows = {row.seq: row for row in journal.rows_of(connection, sorted({*seqs, scope.newest}))}
        found = [memory_of(rows[seq]) for seq in sorted(seqs)]
        reads = self._score(found, relevance, arms, utilities or {}, rows[scope.newest].recorded_s)
        if self._passages is not None:
            reads = [self._in_passing(read, situation, self._passages) for read in reads]
        reads = self._agreed(reads, situation, utilities or {})
        return sorted(reads, key=lambda read: (-(read.memory.score or 0.0), read.memory.id))

    def select(self, candidates: Sequence[Candidate], reads: Sequence[Read], most: int) -> list[Candidate]:
        """At most `most` of the candidates, different ones, within the budget; greatest score first.

        Args:
            candidates: Those of `reads`, in their order, maybe with other scores.
            reads: What `rank` gave.
            most: At most this many.
        """
        settings = self.settings
        return selection.select(
            candidates,
            _by_words([read.memory.text for read in reads]),
            budget_tokens=settings.budget_tokens,
            most=most,
            diversity=settings.diversity,
            per_source=settings.per_source,
            with_failure=settings.with_failure,
        )

    def fit(
        self,
        labelled: Iterable[tuple[Situation, Collection[str]]],
        metric: str = "ndcg@10",
        **options: Unpack[ScopeOptions],
    ) -> ArmFit:
        """Fit the weights of the arms to situations whose answers are known, use them, and keep them in the store.

        An arm that found nothing in any of them gets no weight.

        Args:
            labelled: Situations with the ids of the memories that should be found, ten or more; with fewer, the best
                arm is taken alone.
            metric: As in `fusion.fit_weights`.
            **options: As in `read`.

        Raises:
            ConfigError: No situations, one without an answer, or nothing was found for any.
        """
        queries = []
        with self.store.database.reading() as connection:
            scope = self.store.scope(connection, **options)
            for situation, relevant in labelled:
                arms = self._arms.search(connection, situation, self.settings.pool, scope).arms
                queries.append(Query(arms, relevant))
        fit = fusion.fit_weights(queries, metric, ranges=DEFAULT_ARMS.ranges)
        weights = dict.fromkeys(ARMS, 0.0) | fit.weights.weights
        self.weights = ArmWeights(weights=weights, ranges=DEFAULT_ARMS.ranges)
        self._keep("arms", self.weights)
        return fit

    def calibrate(self, labels: Sequence[tuple[float, bool]], alpha: float = 0.1) -> Abstention:
        """Fit the relevance that must be exceeded to be shown, use it, and keep it in the store.

        Args:
            labels: Pairs (relevance, helped) of recalls that no threshold has cut; the relevance is one of the factors.
            alpha: The share of recalls in which a memory may be shown that does not help; see `Abstention`.

        Raises:
            ConfigError: As in `Abstention.fit`.
        """
        self.abstention = Abstention.fit(labels, alpha)
        self._keep("abstention", self.abstention)
        return self.abstention

    def _kept(self, name: str) -> str | None:
        """JSON of what was fitted, if it was with the store's embedder."""
        with self.store.database.reading() as connection:
            state = read_state(connection)
        fingerprint, _, fitted = state.get(f"fitted:{name}", "").partition("\n")
        return fitted if fingerprint == state["fingerprint"] else None

    def _keep(self, name: str, fitted: Record) -> None:
        with self.store.database.writing() as connection:
            fingerprint = read_state(connection)["fingerprint"]
            write_state(connection, **{f"fitted:{name}": f"{fingerprint}\n{fitted.model_dump_json()}"})

    def _relevance(self, arms: fusion.Arms) -> dict[str, float]:
        """Id -> relevance, greatest first. Arms that found nothing leave their share to the others."""
        weights = {name: self.weights.weights.get(name, 0.0) for name in arms}
        total = sum(weights.values())
        if not total:
            return {}
        ranges = {name: span for name, span in self.weights.ranges.items() if name in arms}
        shares = {name: weight / total for name, weight in weights.items()}
        return fusion.fuse(arms, ArmWeights(weights=shares, ranges=ranges))

    def _score(
        self,
        found: Sequence[Memory],
        relevance: Mapping[str, float],
        arms: fusion.Arms,
        utilities: Mapping[str, Utility],
        now_s: float,
    ) -> list[Read]:
        """What is relevant enough, with its factors. Age counts up to the last write that is seen, not to the clock."""
        signals = [
            Signals(
                relevance[memory.id],
                as_factor(utilities[memory.id]) if memory.id in utilities else None,
                now_s - memory.recorded_s,
                memory.importance,
                memory.trust,
                memory.kind,
            )
            for memory in found
        ]
        columns = ranking.rank_factors(Columns.of(signals), self.settings.rank)
        reads = []
        for row, memory in enumerate(found):
            factors = {name: float(column[row]) for name, column in columns.items()}
            score = math.prod(factors.values())
            if score > 0 and (self.abstention is None or self.abstention.shows(relevance[memory.id])):
                said = {name: scores[memory.id] for name, scores in arms.items() if memory.id in scores}
                tokens = self._count_tokens(memory.text)
                reads.append(Read(memory.model_copy(update={"score": score}), factors, said, tokens))
        return reads

    def _agreed(self, reads: list[Read], situation: Situation, utilities: Mapping[str, Utility]) -> list[Read]:
        """Those whose advice the others do not outvote (`consensus`); each speaks for the source that wrote it."""
        if self.settings.consensus is None:
            return reads
        votes = []
        for read in reads:
            memory = read.memory
            action, avoid = recommended(memory.body, situation.state_key)
            near = 1.0 if read.arms.get("exact") else min(max(read.arms.get("state", 0.0), 0.0), 1.0)
            votes.append(
                Recommendation(
                    memory.id,
                    action,
                    avoid,
                    Trust.UNTRUSTED if memory.status == "probation" else memory.trust,
                    origin=memory.source.name or memory.episode_id,
                    relevance=near,
                    utility=as_factor(utilities[memory.id]) if memory.id in utilities else 0.5,
                )
            )
        kept = set(agree(votes, self.settings.consensus).kept)
        return [read for read in reads if read.memory.id in kept]

    def _in_passing(self, read: Read, situation: Situation, passages: Passages) -> Read:
        """The same, with the text of the passage that matters."""
        passage = passages.of(read.memory, situation.observation, situation.state_key)
        if passage is None:
            return read
        memory = read.memory.model_copy(update={"text": passage.text})
        return read._replace(memory=memory, tokens=self._count_tokens(passage.text))


def _by_words(texts: Sequence[str]) -> Similarity:
    """How much texts say the same: cosine of the sets of words they begin with, read when first asked for."""
    words: list[frozenset[str]] = []

    def similarity(row: int) -> np.ndarray:
        if not words:
            words.extend(frozenset(words_of(text[:_COMPARED])) for text in texts)
        own = words[row]
        return np.array([len(own & other) / math.sqrt(max(len(own) * len(other), 1)) for other in words])

    return similarity
