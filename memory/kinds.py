"""What can be remembered: six kinds of memories, each with a body of its own, and where a memory came from.

A memory is an immutable version: whoever changes one writes the next version of the same id. The body says what was
learnt in a form that code can use; the text says it to a policy; the keys are what it is found by.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated, Literal

from pydantic import Field

from agentkit.memory.records import Record, Text

Kind = Literal["episode", "step", "fact", "insight", "skill", "failure"]
Status = Literal["active", "probation", "quarantine", "disputed", "retired"]
"""Only `active` and `probation` are recalled; `quarantine` waits for a decision, `disputed` is contradicted, `retired`
is no longer held."""
KEY_FIELDS = ("goal", "state", "condition")
"""What a memory may be found by: what was to be reached, what the world looked like, when it is of use."""


class Trust(IntEnum):
    """How far a memory may influence a policy; it caps its rank and never rises by recall."""

    UNTRUSTED = 0
    """Text of the outside world: pages, tools, other agents."""
    OBSERVED = 1
    """Made from episodes of our own."""
    VERIFIED = 2
    """Played again in seeded environments, and it held."""
    TRUSTED = 3
    """Written or confirmed by a person."""


class EpisodeBody(Record):
    """How one attempt went."""

    kind: Literal["episode"] = "episode"
    success: bool
    episode_return: float
    """Undiscounted sum of the rewards."""
    actions: tuple[Text, ...]
    """[T] what was played, invalid turns left out."""
    state_keys: tuple[str, ...] = ()
    """[T] hash of the state in which each was played."""


class StepBody(Record):
    """One transition of the environment."""

    kind: Literal["step"] = "step"
    observation: Text
    action: Text
    reward: float
    next_observation: Text
    terminated: bool = False
    truncated: bool = False
    state_key: str = ""
    """Hash of the state in which `action` was played."""
    next_state_key: str = ""


class FactBody(Record):
    """What is so in an environment: a statement, or a rule of its dynamics."""

    kind: Literal["fact"] = "fact"
    subject: Text
    """What it is about; a later fact about the same subject and relation contradicts it if its value differs."""
    relation: Text
    value: Text
    num_seen: int = 1
    """Observations that agree."""


class InsightBody(Record):
    """Advice for a condition, with the episodes that speak for and against it."""

    kind: Literal["insight"] = "insight"
    condition: Text
    """When it applies; `{slot}` stands for an object."""
    advice: Text
    action: Text = ""
    """The action it recommends, as a template; empty if it recommends none or advises against one."""
    avoid: Text = ""
    """The action it advises against, as a template."""
    evidence_for: tuple[str, ...] = ()
    """Episode ids."""
    evidence_against: tuple[str, ...] = ()


class SkillBody(Record):
    """A sequence of actions with slots that has led from one condition to another."""

    kind: Literal["skill"] = "skill"
    name: str
    slots: tuple[str, ...] = ()
    """Names of the slots, in the order in which `actions` use them first."""
    actions: tuple[Text, ...]
    """Templates; `{slot}` stands for what the slot is bound to."""
    preconditions: tuple[Text, ...] = ()
    """Templates of what was seen, in every use, before the first action."""
    postconditions: tuple[Text, ...] = ()
    """Templates of what was seen, in every use, after the last."""
    num_uses: int = 0
    """Uses in the episodes it was made from."""
    num_successes: int = 0
    """Uses in episodes that succeeded."""


class FailureBody(Record):
    """A way to fail, and what helped against it."""

    kind: Literal["failure"] = "failure"
    signature: Text
    """What it looks like: equal for failures of the same sort, e.g. `loop: go north`."""
    cause: Literal["loop", "invalid", "budget", "terminal", "error"]
    """States repeat; actions are not understood; turns ran out; a losing end; the attempt broke off."""
    action: Text = ""
    """The action that failed, as a template."""
    fix: Text = ""
    """What a successful attempt did in its place; empty if none is known."""
    num_seen: int = 1


Body = Annotated[EpisodeBody | StepBody | FactBody | InsightBody | SkillBody | FailureBody, Field(discriminator="kind")]


class Source(Record):
    """Where a memory came from, enough to find all that is influenced by it."""

    writer: Literal["environment", "policy", "tool", "model", "human", "import"]
    name: Text = ""
    """Which one: id of the log, name of the model and hash of its prompt, name of the person or file."""
    episode_ids: tuple[str, ...] = ()
    """Episodes it was made from."""
    turns: tuple[int, ...] = ()
    """Turns of the first of them that it is about; empty for all."""
    parents: tuple[str, ...] = ()
    """Ids of the memories it was made from."""
    run: str = ""
    """LangGraph thread and checkpoint, or the run that wrote it."""
    policy: str = ""
    policy_version: int = 0


class Draft(Record):
    """A memory that is not yet written: what writers make, what the gate admits."""

    body: Body
    text: Text
    """What a policy is shown."""
    keys: dict[str, Text]
    """What it is found by, one or more of `KEY_FIELDS`."""
    namespace: str = ""
    """Whose it is, e.g. a project or an experiment; readers name the namespaces they may see."""
    env_id: str
    task_key: str = ""
    """`Task.key` of the task it is about; empty if it is about the environment."""
    split: str = "train"
    source: Source
    trust: Trust = Trust.OBSERVED
    status: Status = "active"
    importance: float = Field(default=0.5, ge=0.0, le=1.0)
    """How much it matters, 0 to 1; 0.5 is neutral."""
    valid_from: float | None = None
    """Unix time in seconds from which on it held in the world; None for always."""
    valid_to: float | None = None

    @property
    def kind(self) -> Kind:
        """Its kind."""
        return self.body.kind

    @property
    def identity(self) -> tuple[str, ...]:
        """What makes it this memory: a draft of the same identity is its next version, not another one."""
        body = self.body
        match body:
            case EpisodeBody():
                own: tuple[str, ...] = self.source.episode_ids
            case StepBody():
                own = (*self.source.episode_ids, *map(str, self.source.turns))
            case FactBody():
                own = (body.subject, body.relation)
            case InsightBody():
                own = (body.condition, body.advice)
            case SkillBody():
                own = (*body.preconditions, "", *body.actions)
            case FailureBody():
                own = (body.signature,)
        return (self.namespace, self.env_id, self.kind, *own)


class Memory(Draft):
    """A memory as the store holds it."""

    id: str
    """The same for all its versions, and for the same memory in every store."""
    version: int = 1
    """1 for the first."""
    recorded_s: float = 0.0
    """Unix time at which this version was written."""
    score: float | None = None
    """Cosine similarity of the nearest of its keys to the query, -1 to 1; from a `Reader`, the product of the factors;
    None if it was not searched for."""

    @property
    def episode_id(self) -> str:
        """The first episode it was made from; empty if it was made from none."""
        return self.source.episode_ids[0] if self.source.episode_ids else ""

    @property
    def key(self) -> str:
        """The first of its keys."""
        return next(iter(self.keys.values()))

    def draft(self, **changes: object) -> Draft:
        """What it says, with other values for some fields: the draft of its next version."""
        said = {name: getattr(self, name) for name in Draft.model_fields}
        return Draft(**{**said, **changes})
