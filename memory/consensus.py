"""Consensus over what memories recommend to do, so that no lone or loud source decides.

Memories vote for actions, not for texts: equal actions are one proposal, an origin has one vote for it however many
memories it wrote, and evidence played in the environment outranks any majority. Where A-MemGuard (Wei et al. 2025)
trusts whatever most memories agree on, a poisoned majority does not win here against one verified memory.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import Field

from agentkit.errors import ConfigError
from agentkit.memory.kinds import Body, EpisodeBody, FailureBody, InsightBody, SkillBody, StepBody, Trust
from agentkit.memory.records import Record


class ConsensusSettings(Record):
    """How votes are weighed."""

    weights: tuple[float, float, float, float] = (0.25, 1.0, 4.0, 8.0)
    """Weight of a vote by trust, from UNTRUSTED to TRUSTED; never falling."""
    untrusted_share: float = Field(default=0.1, ge=0)
    """Untrusted votes raise the support of an action by at most this share of what others give it."""
    untrusted_alone: bool = False
    """Keep what only untrusted memories recommend, or recommend for this very situation; off, it waits until it is
    verified."""
    clear: float = Field(default=3.0, ge=1)
    """An action with so many times the support of another, from two origins or more, outvotes it."""
    sharpness: float = Field(default=16.0, ge=1)
    """Power of the relevance in a vote: at 16, two memories at 0.95 outweigh one at 1.0, three at 0.9 do not."""
    relevant: float = Field(default=0.98, ge=0, le=1)
    """Verified evidence speaks for the situation only from this relevance on."""


@dataclass(frozen=True)
class Recommendation:
    """What one recalled memory says to do now."""

    memory_id: str
    action: str
    """The action it recommends; empty if none."""
    avoid: str = ""
    """The action it advises against; empty if none."""
    trust: Trust = Trust.UNTRUSTED
    """As the gate capped it; `UNTRUSTED` for all that is on probation."""
    origin: str = ""
    """Who stands behind it: the source, or the oldest memory it was made from. Empty: the memory itself."""
    relevance: float = 1.0
    """0 to 1, how well it fits the situation."""
    utility: float = 0.5
    """0 to 1, how often it helped; 0.5 if unknown."""


@dataclass(frozen=True)
class Consensus:
    """What remains of the recalled memories."""

    actions: tuple[tuple[str, float], ...]
    """Normalised actions and their support: those for the most alike situation first, then by support."""
    kept: tuple[str, ...]
    """Ids of the memories to show, in the order given: those for the actions, and those that recommend nothing."""
    dropped: tuple[tuple[str, str], ...]
    """Ids of the others, each with the reason."""


def recommended(body: Body, state_key: str = "") -> tuple[str, str]:
    """The action that a body recommends and the one it advises against, either empty.

    An episode recommends what it did in the state `state_key` if it succeeded, and advises against nothing: a failure
    does not tell which of its actions was to blame. A step recommends its action if it was rewarded.
    """
    match body:
        case EpisodeBody() if body.success and state_key in body.state_keys:
            return body.actions[body.state_keys.index(state_key)], ""
        case StepBody():
            return (body.action, "") if body.reward > 0 else ("", body.action if body.reward < 0 else "")
        case InsightBody():
            return body.action, body.avoid
        case SkillBody():
            return body.actions[0], ""
        case FailureBody():
            return body.fix, body.action
    return "", ""


def normalised(action: str) -> str:
    """An action as it is compared: case, white space, quotes and a full stop at its end do not count.

    >>> normalised("  Go  to Fridge 1. "), normalised("`go to fridge 1`")
    ('go to fridge 1', 'go to fridge 1')
    """
    return re.sub(r"\s+", " ", action).strip(" \t\n\"'`.").casefold()


def agree(recommendations: Sequence[Recommendation], settings: ConsensusSettings | None = None) -> Consensus:
    """What the recalled memories agree on, and which of them to leave out.

    1. Votes for equal actions are added up, the strongest of each origin only; votes against are taken off.
    2. If verified memories that fit recommend an action, whatever else is recommended without verified support is
       dropped, however many say it.
    3. Actions that only untrusted memories recommend are dropped, and untrusted memories that fit better than every
       trusted one of the same action: that it is right elsewhere is no reason to believe that it is right here.
    4. An action with `clear` times less support than one that two origins share is dropped.
    5. What remains is ordered by its best fitting trusted voter, then by support: many memories of situations that
       are only alike do not outvote one of this very situation.

    Memories that recommend nothing are kept: there is nothing to disagree with.

    Raises:
        ConfigError: A relevance or utility is outside 0 to 1, or the weights fall with trust.
    """
    settings = settings or ConsensusSettings()
    if list(settings.weights) != sorted(settings.weights) or settings.weights[0] < 0:
        raise ConfigError(f"weights {settings.weights} must not be negative or fall with trust")
    for one in recommendations:
        if not (0.0 <= one.relevance <= 1.0 and 0.0 <= one.utility <= 1.0):
            raise ConfigError(
                f"memory {one.memory_id}: relevance {one.relevance:g} and utility {one.utility:g} must be in [0, 1]"
            )
    voters: dict[str, list[Recommendation]] = defaultdict(list)
    for one in recommendations:
        if one.action:
            voters[normalised(one.action)].append(one)
    against: dict[str, list[Recommendation]] = defaultdict(list)
    for one in recommendations:
        if one.avoid:
            against[normalised(one.avoid)].append(one)
    support = {
        action: _weight(votes, settings) - _weight(against.get(action, ()), settings)
        for action, votes in voters.items()
    }
    why = _objections(voters, support, settings)
    kept, dropped = [], []
    for one in recommendations:
        action = normalised(one.action)
        reason = why.get(action) if action else None
        waits = action and one.trust == Trust.UNTRUSTED and not settings.untrusted_alone
        if reason is None and waits and round(one.relevance, 2) > _nearest(voters[action]):
            reason = f"no trusted memory of a situation as alike recommends {action!r}; verify it"
        if reason is None:
            kept.append(one.memory_id)
        else:
            dropped.append((one.memory_id, reason))
    ranked = sorted(
        ((action, total) for action, total in support.items() if action not in why),
        key=lambda pair: (-_nearest(voters[pair[0]]), -pair[1], pair[0]),
    )
    return Consensus(tuple(ranked), tuple(kept), tuple(dropped))


def _weight(votes: Sequence[Recommendation], settings: ConsensusSettings) -> float:
    strongest: dict[str, float] = {}
    for one in votes:
        if one.trust > Trust.UNTRUSTED:
            weight = settings.weights[one.trust] * (0.5 + one.utility) * one.relevance**settings.sharpness
            origin = one.origin or one.memory_id
            strongest[origin] = max(strongest.get(origin, 0.0), weight)
    untrusted = {
        one.origin or one.memory_id: one.relevance**settings.sharpness for one in votes if one.trust == Trust.UNTRUSTED
    }
    crowd = settings.weights[0] * sum(untrusted.values())
    if not strongest:
        return crowd
    trusted = sum(strongest.values())
    return trusted + min(crowd, settings.untrusted_share * trusted)


def _nearest(votes: Sequence[Recommendation]) -> float:
    """Relevance of the best fitting voter, to two decimals; untrusted ones do not count while there are others."""
    trusted = [one.relevance for one in votes if one.trust > Trust.UNTRUSTED]
    return round(max(trusted, default=0.0), 2)


def _objections(
    voters: dict[str, list[Recommendation]], support: dict[str, float], settings: ConsensusSettings
) -> dict[str, str]:
    """Action -> why it is dropped; what is not in it stays."""
    verified = {
        action
        for action, votes in voters.items()
        if any(one.trust >= Trust.VERIFIED and one.relevance >= settings.relevant for one in votes)
        and support[action] > 0
    }
    shared = {
        action: support[action]
        for action, votes in voters.items()
        if len({one.origin or one.memory_id for one in votes if one.trust > Trust.UNTRUSTED}) >= 2
    }
    most = max(shared.values(), default=0.0)
    why = {}
    for action, votes in voters.items():
        if action in verified:
            continue
        if verified:
            why[action] = f"verified memories recommend {sorted(verified)[0]!r} instead"
        elif not settings.untrusted_alone and all(one.trust == Trust.UNTRUSTED for one in votes):
            why[action] = "only untrusted memories recommend it; verify it, or let an episode of our own confirm it"
        elif support[action] <= 0:
            why[action] = "as much speaks against it as for it"
        elif support[action] * settings.clear <= most:
            why[action] = f"outvoted: support {support[action]:.2f} against {most:.2f} of several origins"
    return why
