"""What a buffer holds, and how its episodes are learnt from: the settings of replay."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from agentkit.training.losses import SIL, SPEAR, Reduction, Replayed, ReplayLoss
from agentkit.training.mismatch import Mismatch
from agentkit.training.replay.selection import ByAdvantage, MinEntropy, Priority, Selection, WholeGroups
from agentkit.training.settings import Settings


class BufferConfig(Settings):
    """What enters and leaves a buffer, and what is drawn from it."""

    capacity: int = Field(default=2048, ge=1)
    """Most episodes kept; the oldest leave first."""
    per_task: int | None = Field(default=None, ge=1)
    """Most episodes of one task; its oldest leave first. None for any number."""
    newest_group_only: bool = False
    """Whether a task's older episodes leave when a newer group of it enters."""
    admit: Literal["success", "better", "signal", "any"] = "success"
    """Successes that beat their group's mean by more than `admit_above`; all attempts that do; attempts off the mean by
    more than it, either way; every sound attempt."""
    admit_above: float = Field(default=0.0, ge=0)
    """By how much R must differ from the group's mean."""
    max_staleness: int | None = Field(default=10, ge=1)
    """Most optimizer steps between the policy that acted and the one that learns; older episodes leave. None: any."""
    select: Selection = Field(default_factory=ByAdvantage)

    @model_validator(mode="after")
    def _buffer_is_consistent(self) -> BufferConfig:
        if self.admit == "any" and self.admit_above > 0:
            raise ValueError(f"admit = 'any' and admit_above = {self.admit_above:g}: there is no bar; drop one of them")
        if self.per_task is not None and self.per_task > self.capacity:
            raise ValueError(f"per_task = {self.per_task} exceeds capacity = {self.capacity}")
        return self


class ImitationConfig(BufferConfig):
    """Replay of the run's own episodes: a buffer, a loss stream and a token count of its own."""

    weight: float = Field(default=0.5, ge=0)
    """Factor of the imitation loss; 0 turns replay off."""
    episodes_per_step: int = Field(default=16, ge=1)
    """Episodes replayed with each optimizer step; under `split` see `per_group`."""
    own_step: bool = False
    """Whether replay has one optimizer step of its own after the policy's steps of an iteration, as SPEAR has some, in
    place of a part in each of them."""
    loss: ReplayLoss = Field(default_factory=SIL)
    reduction: Reduction = "token-mean"
    """How the losses of replayed tokens become one number: over the stream's own tokens and episodes."""
    mismatch: Mismatch | None = None
    """Weights the tokens by how likely they still are, π/μ; for a loss whose ratio is to the present policy."""
    baseline: Literal["group", "p50", "split"] | None = None
    """What a replayed R is judged against: its own group, when it was played; the median of all group means so far, and
    only those above it are replayed (SPEAR); the other replayed attempts at the same task, with their standard
    deviation (RePO). None: `p50` for the loss `spear`, otherwise `group`. Joint groups of replayed and new attempts are
    a matter of `plan`."""
    p50_groups: int = Field(default=10_240, ge=1)
    """`p50`: most group means, the newest, that the median is taken over; SPEAR's number."""
    per_group: int = Field(default=8, ge=1)
    """`split`: episodes replayed of each task that the iteration plays."""
    per_group_wait: int = Field(default=2, ge=2)
    """`split`: episodes of a task there must be before any is replayed (16 in RePO)."""
    wait_for_entries: int = Field(default=1, ge=1)
    """Episodes there must be to choose from before any is replayed."""
    wait_for_success: float = Field(default=0.0, ge=0, lt=1)
    """Success rate that an iteration must have exceeded before any is replayed."""
    empty_after_use: bool = False
    """Whether the buffer is emptied after an iteration in which it was replayed."""

    @property
    def judged_by(self) -> Literal["group", "p50", "split"]:
        """The baseline."""
        return self.baseline or ("p50" if isinstance(self.loss, SPEAR) else "group")

    @model_validator(mode="after")
    def _consistent(self) -> ImitationConfig:
        given, baseline = self.changed, self.judged_by
        if self.wait_for_entries > self.capacity:
            raise ValueError(
                f"wait_for_entries = {self.wait_for_entries} exceeds capacity = {self.capacity}: nothing would ever be "
                "replayed"
            )
        if self.mismatch is not None and not (isinstance(self.loss, Replayed) and self.loss.base == "current"):
            raise ValueError(
                f"mismatch and loss = {self.loss.name!r}: the loss has a correction for π/μ of its own; leave mismatch "
                "out, or choose loss = 'surrogate' with base = 'current'"
            )
        splits, of_split = baseline == "split", {"per_group", "per_group_wait"} & given
        if of_split and not splits:
            raise ValueError(f"{' and '.join(sorted(of_split))} and baseline = {baseline!r}: only 'split' reads that")
        if "p50_groups" in given and baseline != "p50":
            raise ValueError(f"p50_groups = {self.p50_groups} and baseline = {baseline!r}: only 'p50' reads that")
        if splits and "episodes_per_step" in given:
            raise ValueError("episodes_per_step and baseline = 'split': how many are replayed is set by per_group")
        if splits and isinstance(self.select, Priority):
            raise ValueError(
                "select = 'priority' and baseline = 'split': its weights correct for a draw from the whole buffer, not "
                "from a task's entries; choose another of the two"
            )
        if splits and isinstance(self.select, WholeGroups):
            raise ValueError(f"select = {self.select.name!r} and baseline = 'split': it does not choose within a task")
        if splits and self.per_task is not None and self.per_group_wait > self.per_task:
            raise ValueError(f"per_group_wait = {self.per_group_wait} exceeds per_task = {self.per_task}")
        if isinstance(self.select, MinEntropy) and not splits:
            raise ValueError(
                f"select = 'min-entropy' and baseline = {baseline!r}: the whole buffer would be measured at each step; "
                "choose baseline = 'split'"
            )
        return self
