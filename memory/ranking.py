"""How much a memory is worth showing: its relevance times bounded factors, each of which can be read and checked.

    score = rel · (1 + a_U (U - 1/2)) · (1 + a_R rec) · (1 + a_I (imp - 1/2)) · trust

Relevance below a floor counts as none, before anything else is looked at: what has proved useful elsewhere cannot buy
itself into a question it has nothing to do with. What is unknown about a memory changes nothing: its factor is 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, NamedTuple, Self, get_args

import numpy as np
from pydantic import Field, model_validator

from agentkit.errors import ConfigError
from agentkit.memory.kinds import Kind, Trust
from agentkit.memory.records import Record

KINDS: tuple[Kind, ...] = get_args(Kind)
"""Order in which `Columns.kind` numbers the kinds."""
DAY_S = 86_400.0
HALF_LIFE_S: dict[Kind, float] = {
    "step": 7 * DAY_S,
    "episode": 30 * DAY_S,
    "failure": 90 * DAY_S,
    "fact": 90 * DAY_S,
    "insight": 180 * DAY_S,
    "skill": 365 * DAY_S,
}
"""Seconds in which freshness halves: the more a memory abstracts from one moment, the longer. Chosen, not measured."""
_ROUNDING = 1e-6  # by how much a cosine of float32 vectors may leave [0, 1]

Strength = Annotated[float, Field(ge=0.0, le=1.0)]
TrustFactor = Annotated[float, Field(gt=0.0, le=2.0)]
HalfLife = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]


class Signals(NamedTuple):
    """What is known about one memory when it is ranked for one query."""

    relevance: float
    """0 to 1: how much it is about the query."""
    utility: float | None = None
    """0 to 1: how much it has helped; 0.5 is no effect, None is not known."""
    age_s: float | None = None
    """Seconds since it was written or last confirmed; less than 0 (clocks differ) counts as 0, None is not known."""
    importance: float | None = None
    """0 to 1; 0.5 is neutral, None is not known."""
    trust: Trust = Trust.OBSERVED
    kind: Kind = "episode"


class Columns(NamedTuple):
    """The signals of N memories, one array each; NaN where `Signals` has None."""

    relevance: np.ndarray
    """[N] float."""
    utility: np.ndarray
    """[N] float."""
    age_s: np.ndarray
    """[N] float."""
    importance: np.ndarray
    """[N] float."""
    trust: np.ndarray
    """[N] int, values of `Trust`."""
    kind: np.ndarray
    """[N] int, positions in `KINDS`."""

    @classmethod
    def of(cls, signals: Sequence[Signals]) -> Columns:
        """The columns of some rows.

        Raises:
            ConfigError: A kind that there is not.
        """
        unknown = sorted({row.kind for row in signals} - set(KINDS))
        if unknown:
            raise ConfigError(f"kind {unknown[0]!r} cannot be ranked; it must be one of {', '.join(KINDS)}")
        return cls(
            np.array([row.relevance for row in signals], dtype=float),
            _known([row.utility for row in signals]),
            _known([row.age_s for row in signals]),
            _known([row.importance for row in signals]),
            np.array([row.trust for row in signals], dtype=int),
            np.array([KINDS.index(row.kind) for row in signals], dtype=int),
        )


class RankWeights(Record):
    """How far each signal may move the score; 0 switches a signal off.

    With the defaults, utility, recency and importance together move a score by 0.675 to 1.65. So a memory can overtake
    one that is at most 2.44 times as relevant, and an untrusted one (0.4) none that is as relevant and trusted more.
    """

    floor: Strength = 0.2
    """Relevance below this scores 0. Depends on what relevance is measured with; `Abstention` fits one from labels."""
    utility: Strength = 0.5
    """a_U: the factor lies in [1 - a_U/2, 1 + a_U/2]."""
    recency: Strength = 0.2
    """a_R: the factor lies in [1, 1 + a_R]; an unknown age earns no bonus."""
    importance: Strength = 0.2
    """a_I: the factor lies in [1 - a_I/2, 1 + a_I/2]."""
    trust: tuple[TrustFactor, TrustFactor, TrustFactor, TrustFactor] = (0.4, 1.0, 1.1, 1.2)
    """The factor of each tier of `Trust`, lowest tier first."""
    half_life_s: dict[Kind, HalfLife] = HALF_LIFE_S
    """Seconds in which the recency of each kind halves."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if list(self.trust) != sorted(self.trust):
            raise ValueError(f"trust factors {self.trust} fall as trust rises; put them in rising order")
        missing = [kind for kind in KINDS if kind not in self.half_life_s]
        if missing:
            raise ValueError(f"half_life_s lacks {', '.join(missing)}; give {{**HALF_LIFE_S, ...}} to change only some")
        return self


class Scored(NamedTuple):
    """A score and what it is made of."""

    value: float
    """The product of the factors."""
    factors: dict[str, float]
    """relevance (0 if below the floor), utility, recency, importance, trust."""


DEFAULT_WEIGHTS = RankWeights()


def recency(age_s: np.ndarray, half_life_s: np.ndarray) -> np.ndarray:
    """[N] freshness: 1 for what is new, halved with every half-life; NaN where the age is.

    >>> recency(np.array([0.0, 10.0, 30.0]), np.array([10.0, 10.0, 10.0]))
    array([1.   , 0.5  , 0.125])
    """
    return np.exp2(-np.maximum(age_s, 0.0) / half_life_s)


def rank_factors(columns: Columns, weights: RankWeights = DEFAULT_WEIGHTS) -> dict[str, np.ndarray]:
    """The factors [N] of N memories by name; their product is the score.

    Raises:
        ConfigError: Columns of different lengths, a value out of its range, or a relevance that is not known.
    """
    _check_columns(columns)
    relevance = np.clip(columns.relevance, 0.0, 1.0)
    half_life_s = np.array([weights.half_life_s[kind] for kind in KINDS])[columns.kind]
    return {
        "relevance": np.where(relevance >= weights.floor, relevance, 0.0),
        "utility": 1.0 + weights.utility * np.nan_to_num(columns.utility - 0.5),
        "recency": 1.0 + weights.recency * np.nan_to_num(recency(columns.age_s, half_life_s)),
        "importance": 1.0 + weights.importance * np.nan_to_num(columns.importance - 0.5),
        "trust": np.array(weights.trust)[columns.trust],
    }


def score_many(columns: Columns, weights: RankWeights = DEFAULT_WEIGHTS) -> np.ndarray:
    """[N] the scores of N memories, each exactly what `score` gives it alone.

    Raises:
        ConfigError: As in `rank_factors`.
    """
    return np.asarray(math.prod(rank_factors(columns, weights).values()))


def score(signals: Signals, weights: RankWeights = DEFAULT_WEIGHTS) -> Scored:
    """The score of one memory with its factors.

    >>> score(Signals(relevance=0.8, utility=0.9, trust=Trust.UNTRUSTED))
    Scored(value=0.384, factors={'relevance': 0.8, 'utility': 1.2, 'recency': 1.0, 'importance': 1.0, 'trust': 0.4})

    Raises:
        ConfigError: As in `rank_factors`.
    """
    columns = rank_factors(Columns.of([signals]), weights)
    factors = {name: float(column[0]) for name, column in columns.items()}
    return Scored(math.prod(factors.values()), factors)


def explain(scored: Scored) -> str:
    """One line that says where a score comes from; factors of 1 are left out.

    >>> explain(score(Signals(relevance=0.8, utility=0.9, trust=Trust.UNTRUSTED)))
    '0.384 = relevance 0.800 × utility 1.200 × trust 0.400'
    >>> explain(score(Signals(relevance=0.1, utility=1.0)))
    '0.000: not relevant enough, whatever else speaks for it'
    """
    if scored.factors["relevance"] == 0.0:
        return "0.000: not relevant enough, whatever else speaks for it"
    parts = [f"{name} {factor:.3f}" for name, factor in scored.factors.items() if name == "relevance" or factor != 1.0]
    return f"{scored.value:.3f} = " + " × ".join(parts)


def _known(values: Sequence[float | None]) -> np.ndarray:
    return np.array([math.nan if value is None else value for value in values], dtype=float)


def _check_columns(columns: Columns) -> None:
    lengths = {name: len(column) for name, column in columns._asdict().items()}
    if len(set(lengths.values())) > 1:
        raise ConfigError(f"columns differ in length: {lengths}; give one value a memory in each")
    if np.isnan(columns.relevance).any():
        raise ConfigError("a relevance is not a number; leave out memories whose relevance is not known")
    for name, low, high in (("relevance", -_ROUNDING, 1 + _ROUNDING), ("utility", 0, 1), ("importance", 0, 1)):
        column = getattr(columns, name)
        outside = column[(column < low) | (column > high)]
        if outside.size:
            raise ConfigError(f"{name} {outside[0]:g} is outside [0, 1]; rescale it first")
    for name, count in (("trust", len(Trust)), ("kind", len(KINDS))):
        column = getattr(columns, name)
        outside = column[(column < 0) | (column >= count)]
        if outside.size:
            raise ConfigError(f"{name} {outside[0]} is none of 0 to {count - 1}; use Trust, and positions in KINDS")
