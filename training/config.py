"""The trainer's numbers. The same models serve Python, the TOML file and the command line."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field, model_validator

from agentkit.errors import ConfigError
from agentkit.memory.records import Episode
from agentkit.policies.policy import Sampling
from agentkit.training.advantages import (
    ACE,
    GAE,
    GRPO,
    MCGRPO,
    RLOO,
    Advantage,
    AnyModifier,
    ArCHer,
    DrGRPO,
    Novelty,
    Outcomes,
    ReinforcePlusPlus,
    TurnBonus,
)
from agentkit.training.binding import check_schedules
from agentkit.training.clocks import ModelTime
from agentkit.training.credit import ActFocus, Credit, Factor, Pivot, Product, Uniform
from agentkit.training.filters import AnyFilter
from agentkit.training.losses import KL, OPMD, SPEAR, Bonus, Clip, Entropy, Loss, Reduction, TrajectoryBalance
from agentkit.training.mismatch import Mismatch
from agentkit.training.network import Network
from agentkit.training.overlong import OverlongFilter, OverlongPenalty
from agentkit.training.plans import ARPO, R3L, RLEP, XRPO, ExGRPO, Hindsight, Plan
from agentkit.training.replay.retention import Retention
from agentkit.training.replay.settings import ImitationConfig as ImitationConfig
from agentkit.training.schedule import AnySchedule, Intensity
from agentkit.training.settings import Settings
from agentkit.training.tasks import InOrder, TaskSampler


class TrainConfig(Settings):
    """Group-relative policy optimisation with token credit."""

    iterations: int = Field(default=100, ge=1)
    """Rounds of collecting and learning."""
    tasks_per_iteration: int = Field(default=8, ge=1)
    """Groups collected in one iteration (P)."""
    group_size: int = Field(default=16, ge=2)
    """Attempts at each task (G)."""
    task_pool: int | None = Field(default=None, ge=1)
    """Number of different training tasks; None never repeats one."""
    tasks: TaskSampler = Field(default_factory=InOrder)
    """Which tasks an iteration plays."""
    filter: AnyFilter | None = None
    """Which groups are learnt from; None for all. Those without variance have no advantage."""
    minibatches: int = Field(default=1, ge=1)
    """Optimizer steps an iteration's rows are split into."""
    epochs: int = Field(default=1, ge=1)
    """Passes over an iteration's rows."""
    learning_rate: float = Field(default=1e-6, gt=0, le=1)
    """Learning rate of AdamW (β 0.9, 0.999); `schedules` warms it up and lets it fall."""
    schedules: dict[str, AnySchedule] = Field(default_factory=dict)
    """What numbers are multiplied by as the run goes on, by their names: `learning_rate`, `imitation.weight`."""
    model_time: ModelTime = Field(default_factory=ModelTime)
    """How the clock `model` is read."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled weight decay of AdamW."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """Gradients are scaled down to this norm."""
    entropy_coef: float = Field(default=0.001, ge=0)
    """Factor of the entropy term (unweighted by credit)."""
    entropy: Entropy = Field(default_factory=Bonus)
    kl_coef: float = Field(default=0.0, ge=0)
    """Factor of the KL to the reference, reduced as `reduction` says, unweighted by credit."""
    kl: KL = "k3"
    """How the KL is estimated, and so what its gradient is: see `kl_tokens`."""
    format_penalty: float = Field(default=0.1, ge=0)
    """Subtracted from the return for each malformed or misunderstood turn."""
    turn_bonus: TurnBonus | None = None
    """What turns earn for acting at all; None for nothing."""
    overlong_penalty: OverlongPenalty | None = None
    """What a response near the token limit loses of its reward; None for nothing."""
    overlong_filter: OverlongFilter | None = None
    """What a limit cut and the policy loss leaves out; its group goes on counting the return. None: nothing."""
    micro_batch_tokens: int = Field(default=16_384, ge=1)
    """Most tokens, padding included, in one pass of the network."""
    checkpoint_every: int = Field(default=10, ge=1)
    """Iterations between checkpoints."""
    keep_checkpoints: int = Field(default=2, ge=1)
    """Checkpoints kept; the oldest go."""
    bottleneck_every: int = Field(default=10, ge=0)
    """Iterations between action-bottleneck diagnostics; 0 for none."""
    advantage: Advantage = Field(default_factory=GRPO)
    modifiers: tuple[AnyModifier, ...] = ()
    """What is done to the advantages after the estimator, in this order."""
    reward_range: tuple[float, float] | None = None
    """Least and greatest reward the environment may give for a turn; another one stops the run. None for any."""
    credit: Credit = Field(default_factory=ActFocus)
    network: Network = Field(default_factory=Network)
    loss: Loss = Field(default_factory=Clip)
    reduction: Reduction = "token-mean"
    """How the losses of tokens become one number; a loss of sequences fixes it."""
    horizon: int | None = Field(default=None, ge=1)
    """Most sampled tokens of an episode: the divisor of `seq-mean-token-sum-norm`."""
    mismatch: Mismatch | None = None
    """Correction for a sampler that is not quite the policy; None takes the recorded log-probabilities for its own."""
    imitation: ImitationConfig = Field(default_factory=ImitationConfig)
    """Replay of the run's own episodes."""
    plan: Plan | None = None
    """Which attempts are played and what is made of them; None plays `group_size` a task and leaves them alone."""
    retention: Retention | None = None
    """Replay of an earlier run's successes, so that they are not forgotten."""

    @property
    def needs_model_time(self) -> bool:
        """Whether anything asks how far the weights move, which costs a copy of those that learn at each step."""
        found = self.schedules.values()
        return self.retention is not None or any(isinstance(s, Intensity) or s.clock == "model" for s in found)

    @property
    def needs_reference(self) -> bool:
        """Whether the policy's own tokens need a pass of the reference model."""
        return self.credit.needs_reference or self.loss.needs_reference or self.kl_coef > 0

    @property
    def _schemes(self) -> tuple[Factor, ...]:
        return self.credit.factors if isinstance(self.credit, Product) else (self.credit,)

    @property
    def measures_policy(self) -> bool:
        """Whether log π_old is measured before learning.

        What the sampler recorded is float32's: under another precision the first ratio would not be 1.
        """
        return self.mismatch is not None or self.network.precision != "float32"

    def outcomes(self, episodes: Sequence[Episode]) -> Outcomes:
        """What attempts earned, with these penalties.

        Raises:
            EnvironmentFault: A reward is not finite, or lies outside the range.
        """
        return Outcomes.of(
            episodes,
            self.format_penalty,
            overlong_penalty=self.overlong_penalty,
            turn_bonus=self.turn_bonus,
            reward_range=self.reward_range,
        )

    def check_sampling(self, sampling: Sampling) -> None:
        """Raise unless what is sampled like this can be learnt from with these numbers.

        Raises:
            ConfigError: All attempts of a group would be the same, or no response is long enough for the penalty.
        """
        if sampling.temperature == 0:
            raise ConfigError(
                "sampling.temperature = 0 gives every attempt of a group the same tokens; raise it to train"
            )
        free = None if self.overlong_penalty is None else self.overlong_penalty.free_length
        if free is not None and free >= sampling.max_new_tokens:
            raise ConfigError(
                f"overlong_penalty spares responses of up to max_length - cache_length = {free} tokens, and "
                f"sampling.max_new_tokens = {sampling.max_new_tokens} allows none longer: nothing would be penalised; "
                "lower max_length, or leave the penalty out"
            )

    @model_validator(mode="after")
    def _consistent(self) -> TrainConfig:
        if self.minibatches > self.tasks_per_iteration * self.group_size:
            raise ValueError(
                f"minibatches = {self.minibatches} exceeds tasks_per_iteration × group_size = "
                f"{self.tasks_per_iteration * self.group_size} episodes"
            )
        if self.task_pool is not None and self.task_pool < self.tasks_per_iteration:
            raise ValueError(
                f"task_pool = {self.task_pool} is smaller than tasks_per_iteration = "
                f"{self.tasks_per_iteration}: an iteration would hold a task twice"
            )
        if (self.reduction == "seq-mean-token-sum-norm") != (self.horizon is not None):
            raise ValueError(
                f"reduction = {self.reduction!r} and horizon = {self.horizon}: seq-mean-token-sum-norm needs a "
                "horizon, and no other reduction reads it"
            )
        if self.loss.reductions is not None and self.reduction not in self.loss.reductions:
            raise ValueError(
                f"loss = {self.loss.name!r} and reduction = {self.reduction!r}: the loss is one of sequences; set "
                f"reduction = {' or '.join(repr(name) for name in self.loss.reductions)}"
            )
        if self.loss.needs_groups and self.minibatches > 1:
            raise ValueError(
                f"loss = {self.loss.name!r} and minibatches = {self.minibatches}: it compares the attempts of a group, "
                "which must be in one optimizer step; set minibatches = 1"
            )
        if self.entropy_coef == 0 and not isinstance(self.entropy, Bonus):
            raise ValueError(f"entropy = {self.entropy.name!r} and entropy_coef = 0: the term would have no effect")
        if self.kl_coef == 0 and self.kl != "k3":
            raise ValueError(f"kl = {self.kl!r} and kl_coef = 0: the KL would have no effect")
        if self.turn_bonus is not None and self.turn_bonus.coef == 0:
            raise ValueError("turn_bonus.coef = 0: no turn would earn anything; raise it, or leave turn_bonus out")
        if isinstance(self.advantage, ArCHer):
            self._check_critic(self.advantage)
        if self.advantage.needs_values == "token" and self.modifiers:
            raise ValueError(
                f"advantage = {self.advantage.name!r} gives one number a token, and modifiers = "
                f"{', '.join(modifier.name for modifier in self.modifiers)} change one a turn; drop one of them"
            )
        if self.reward_range is not None and self.reward_range[0] > self.reward_range[1]:
            raise ValueError(f"reward_range = {self.reward_range}: the least reward exceeds the greatest")
        if self.imitation.reduction == "seq-mean-token-sum-norm" and self.horizon is None:
            raise ValueError(
                f"imitation.reduction = {self.imitation.reduction!r} and horizon = None: the divisor is the policy "
                f"loss's own; set reduction = {self.imitation.reduction!r} and a horizon"
            )
        steps, stale = self.minibatches * self.epochs + self.imitation.own_step, self.imitation.max_staleness
        if self.imitation.weight > 0 and stale is not None and steps > stale:
            raise ValueError(
                f"minibatches × epochs{' + 1' * self.imitation.own_step} = {steps} optimizer steps an iteration exceed "
                "imitation.max_staleness = "
                f"{self.imitation.max_staleness}: every episode would be too old before it could be replayed"
            )
        self._check_tasks()
        self._check_unread()
        self._check_plan()
        self._check_episodes()
        self._check_old_logprobs()
        if "model_time" in self.changed and not self.needs_model_time:
            raise ValueError("model_time is set, but nothing reads it: neither a schedule nor retention")
        check_schedules(self, self.schedules)
        return self

    def _check_old_logprobs(self) -> None:
        told = self.plan.hints if isinstance(self.plan, XRPO) else self.plan
        stored = getattr(told, "old_logprobs", None) == "stored"
        measured_for: str | None = None
        if self.advantage.needs_values == "token":
            measured_for = self.advantage.name
        elif self.credit.needs_policy:
            measured_for = self.credit.name
        elif self.measures_policy:
            measured_for = self.network.precision
        read = self.mismatch is not None or (self.plan is not None and self.plan.injected_loss is not None)
        if told is None or not stored or read or isinstance(told, Hindsight):  # replay reads what hindsight makes
            return
        if measured_for is not None:
            raise ValueError(
                f"plan.old_logprobs = 'stored' and {measured_for!r}: that measures the old policy's "
                "log-probabilities, and stored ones would not be read; set old_logprobs = 'recomputed', or mismatch, "
                "which reads both"
            )
        no_ratio = isinstance(self.loss, OPMD | TrajectoryBalance)
        if no_ratio and "old_logprobs" in told.changed and not self._reads_recorded():
            raise ValueError(
                f"plan.old_logprobs = 'stored' and loss = {self.loss.name!r}: the loss has no ratio, and nothing else "
                "would read them; leave old_logprobs out"
            )

    def _reads_recorded(self) -> bool:
        """Whether anything but the policy loss reads the log-probabilities that stand in a plan's episodes."""
        own = self.imitation.weight > 0 and not isinstance(self.plan, ARPO | RLEP | ExGRPO)  # which replay leaves out
        weighed = any(isinstance(each, ActFocus) and each.signal in {"nll", "shift"} for each in self._schemes)
        return own or weighed or any(isinstance(modifier, ACE | Novelty) for modifier in self.modifiers)

    def _check_critic(self, critic: ArCHer) -> None:
        if critic.warmup_iterations >= self.iterations:
            raise ValueError(
                f"advantage.warmup_iterations = {critic.warmup_iterations} and iterations = {self.iterations}: the "
                "critic would learn alone all the time; lower warmup_iterations"
            )
        if critic.capacity < self.tasks_per_iteration * self.group_size:
            raise ValueError(
                f"advantage.capacity = {critic.capacity} is less than tasks_per_iteration × group_size = "
                f"{self.tasks_per_iteration * self.group_size}: an iteration would not fit; raise capacity"
            )

    def _check_tasks(self) -> None:
        if self.task_pool is None and self.tasks.needs_pool:
            raise ValueError(f"tasks = {self.tasks.name!r} and task_pool = None: it chooses from a pool; set task_pool")
        if self.imitation.weight > 0 and self.imitation.judged_by == "split" and self.task_pool is None:
            raise ValueError(
                "imitation.baseline = 'split' and task_pool = None: it replays earlier attempts at the tasks at hand, "
                "none of which would ever come again; set task_pool"
            )
        if self.task_pool is None and self.imitation.newest_group_only:
            raise ValueError(
                "imitation.newest_group_only = true and task_pool = None: no task has a second group; set task_pool"
            )
        most = self.imitation.per_task
        if self.task_pool is None and self.plan is None and most is not None and most >= self.group_size:
            raise ValueError(
                f"imitation.per_task = {most}, group_size = {self.group_size} and task_pool = None: no task is ever "
                "attempted more often; set task_pool, or a lower per_task"
            )

    def _check_unread(self) -> None:
        """Refuse what is set beside a factor of 0 that keeps it from having any effect.

        A factor that a schedule leads to 0 is not 0 here: the setting is its greatest value.
        """
        beside = sorted(self.imitation.changed - {"weight"})
        if self.imitation.weight == 0 and beside:
            raise ValueError(
                f"imitation.weight = 0 and imitation.{beside[0]} = {getattr(self.imitation, beside[0])!r}: nothing is "
                "replayed; leave it out, or raise the weight (a schedule may begin at 0: set the greatest value)"
            )
        factors: list[tuple[str, Settings, type[Settings], str, set[str], str]] = [
            ("advantage", self.advantage, GAE, "value_coef", {"value_clip", "value_rate"}, "no value is learnt"),
            ("imitation.loss", self.imitation.loss, SPEAR, "dropped", {"least", "most"}, "no token is dropped"),
        ]
        why = "no action token is weighed by the signal"
        factors += [("credit", scheme, ActFocus, "beta", {"signal", "epsilon"}, why) for scheme in self._schemes]
        for where, part, kind, factor, fields, why in factors:
            if isinstance(part, kind) and getattr(part, factor) == 0 and (unread := part.changed & fields):
                raise ValueError(
                    f"{where}.{factor} = 0 and {where}.{min(unread)} = {getattr(part, min(unread))!r}: {why}; leave it "
                    f"out, or raise {factor}"
                )

    def _check_plan(self) -> None:
        """Refuse what only another plan, or other attempts, would give anything to do."""
        plan, bar = self.plan, self.imitation.admit_above
        if isinstance(plan, XRPO):
            if self.task_pool is None and "carry" in plan.changed:
                raise ValueError(
                    f"plan.carry = {plan.carry:g} and task_pool = None: no task is played anew; set task_pool, or "
                    "leave carry out"
                )
            unread = plan.changed & {"most", "prior", "carry", "hints"}
            if unread and plan.num_first(self.group_size) == self.group_size:
                raise ValueError(
                    f"plan.first = {plan.first:g}, group_size = {self.group_size} and plan.{min(unread)}: the first "
                    "attempts are all there are, and it concerns the others; lower first, or leave it out"
                )
        barred = self.imitation.admit != "any" and "imitation.admit_above" not in self.schedules
        if isinstance(plan, Hindsight) and barred and plan.gain <= bar:
            raise ValueError(
                f"plan.gain = {plan.gain:g} and imitation.admit_above = {bar:g}: no relabelled episode would ever be "
                "admitted; raise gain, or lower admit_above"
            )
        branches = (isinstance(plan, R3L) and plan.pivot == "turn") or self.retention is not None
        if any(isinstance(scheme, Pivot) for scheme in self._schemes) and not branches:
            raise ValueError(
                "credit = 'pivot' without plan = 'r3l' and its pivot = 'turn': no attempt branches off another, and "
                "every token would weigh 1; set that plan, or leave the credit out"
            )

    def _check_episodes(self) -> None:
        """Refuse what gives the tokens of an episode different numbers under a loss of whole episodes."""
        if not self.loss.needs_groups:
            return
        if not isinstance(self.advantage, GRPO | DrGRPO | RLOO | MCGRPO | ReinforcePlusPlus):
            raise ValueError(
                f"loss = {self.loss.name!r} and advantage = {self.advantage.name!r}: the loss needs one advantage an "
                "episode; choose one of whole episodes, such as dr-grpo"
            )
        if not isinstance(self.credit, Uniform):
            raise ValueError(
                f"loss = {self.loss.name!r} and credit = {self.credit.name!r}: the loss is of whole episodes, whose "
                "tokens cannot weigh differently; set credit = { name = 'uniform' }"
            )
