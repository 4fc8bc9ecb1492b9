"""Preferences: learn to say what attempts that succeeded said, and not what failures said, by TRL's DPO or KTO.

The losses are TRL's; the tokens are ours, as they were sampled. TRL tokenises whatever it is given, so the two steps
of its trainers that would do so, or hold a second model as reference, are replaced: a dataset with ids and with the
policy's own log-probabilities from before the first step is passed on as it is. That is why classes are derived here.
"""

from __future__ import annotations

import copy
import random
import tempfile
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field, model_validator

from agentkit.errors import ConfigError, PolicyFault, require
from agentkit.memory.records import Episode
from agentkit.policies.local import LocalPolicy
from agentkit.seeding import derive_seed
from agentkit.training.forward import check_model, check_vocabulary, measure
from agentkit.training.network import Network
from agentkit.training.pairs import labelled_turns, preference_pairs
from agentkit.training.rows import Row, build_rows, named
from agentkit.training.settings import Settings
from agentkit.training.sft import written_tokens


class DPO(Settings):
    """Direct preference optimisation (Rafailov et al. 2023, 2305.18290, eq. 7): −log σ(β · margin) of a pair.

    The margin is how much more the policy has come to prefer the chosen answer than before the first step.
    """

    name: Literal["dpo"] = "dpo"
    beta: float = Field(default=0.1, gt=0)
    """β, TRL's default: greater keeps the policy closer to where it began."""
    per_group: int | None = Field(default=None, ge=1)
    """Most pairs of a group of attempts; None for all."""


class KTO(Settings):
    """Kahneman-Tversky optimisation (Ethayarajh et al. 2024, 2402.01306, eq. 8): answers are good or bad, no pairs.

    The divergence that answers are compared with is estimated on the answers of the pass at the neighbouring prompts.
    """

    name: Literal["kto"] = "kto"
    beta: float = Field(default=0.1, gt=0)
    """β, TRL's default."""
    desirable_weight: float = Field(default=1.0, gt=0)
    """λ_D: weight of good answers; the authors advise λ_D · good between 1 and 4/3 of λ_U · bad."""
    undesirable_weight: float = Field(default=1.0, gt=0)
    """λ_U: weight of bad answers."""


class PreferenceConfig(Settings):
    """Learning from preferences."""

    method: Annotated[DPO | KTO, Field(discriminator="name")] = Field(default_factory=DPO)
    steps: int = Field(default=100, ge=1)
    """Optimizer steps."""
    examples_per_step: int = Field(default=16, ge=1)
    """Pairs, or labelled answers, in one step."""
    examples_per_pass: int = Field(default=8, ge=1)
    """Of these, how many go through the network at once."""
    learning_rate: float = Field(default=1e-6, gt=0, le=1)
    """Peak of a linear warm-up and a linear decay; TRL's default for whole networks."""
    warmup_steps: int = Field(default=0, ge=0)
    """Optimizer steps of linear warm-up."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled weight decay of AdamW."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """Gradients are scaled down to this norm."""
    micro_batch_tokens: int = Field(default=16_384, ge=1)
    """Most tokens, padding included, in one pass that measures the reference."""
    network: Network = Field(default_factory=Network)

    @model_validator(mode="after")
    def _consistent(self) -> PreferenceConfig:
        if self.examples_per_step % self.examples_per_pass:
            raise ValueError(
                f"examples_per_step = {self.examples_per_step} is no multiple of examples_per_pass = "
                f"{self.examples_per_pass}"
            )
        if isinstance(self.method, KTO) and self.examples_per_pass == 1:
            raise ValueError(
                "method = 'kto' and examples_per_pass = 1: it compares the answers of a pass; set at least 2"
            )
        if self.network.compile:
            raise ValueError("network.compile = true: TRL computes the passes that learn, as they are; leave it out")
        return self


def learn_preferences(
    policy: LocalPolicy,
    episodes: Iterable[Episode],
    config: PreferenceConfig | None = None,
    *,
    seed: int = 0,
    on_step: Callable[[int, Mapping[str, float]], None] | None = None,
) -> list[dict[str, float]]:
    """Train the policy's model to prefer what succeeded; returns TRL's metrics of each step.

    Recorded ids are used as they are. Answers recorded as text only (an expert's, a hosted model's) are encoded once by
    the policy's tokenizer, as `fine_tune` does. The reference is the policy before the first step.

    Args:
        policy: Its model is changed in place.
        episodes: Attempts, successes and failures.
        config: The numbers.
        seed: Of the order of the examples.
        on_step: Called with number and metrics of each step, e.g. `rewards/margins`, β times the mean margin.

    Raises:
        ConfigError: There is nothing to compare, or the settings do not fit the model.
        MissingExtraError: TRL is not installed.
        PolicyFault: The loss is not finite; the error names episodes.
    """
    config = config or PreferenceConfig()
    require("trl")
    check_model(policy.model)
    config.network.prepare(policy.model)
    episodes = list(episodes)
    examples = _examples(policy, episodes, config, np.random.default_rng(derive_seed(seed, "preferences")))
    from datasets import Dataset

    history: list[dict[str, float]] = []

    def told(step: int, values: Mapping[str, float]) -> None:
        history.append(dict(values))
        if on_step is not None:
            on_step(step, history[-1])

    with tempfile.TemporaryDirectory() as folder, _own_randomness():
        trainer = _make_trainer(
            policy, Dataset.from_list(examples), config, folder, derive_seed(seed, "trl"), told, episodes
        )
        try:
            trainer.train()
        finally:  # what TRL, accelerate and transformers have put on the model for training
            for name in ("forward", "_original_forward"):
                vars(policy.model).pop(name, None)
            policy.model.eval()
    return history


def _examples(
    policy: LocalPolicy, episodes: list[Episode], config: PreferenceConfig, rng: np.random.Generator
) -> list[dict[str, Any]]:
    """Examples in TRL's names, shuffled, with what the policy says of them now as the reference."""
    tokens_of = written_tokens(policy)
    check_vocabulary(policy.model, build_rows(episodes, tokens_of)[0], [episode.id for episode in episodes])
    examples: list[dict[str, Any]] = []
    if isinstance(config.method, DPO):
        pairs = preference_pairs(episodes, config.method.per_group)
        for pair in pairs:
            chosen, rejected = tokens_of(pair.chosen), tokens_of(pair.rejected)
            if chosen is not None and rejected is not None:
                ids = {"chosen_ids": list(chosen[1]), "rejected_ids": list(rejected[1])}
                examples.append({"prompt_ids": list(chosen[0])} | ids)
        if not examples:
            raise ConfigError(
                f"no pair among {len(episodes)} episodes: DPO needs a success and a failure at the same task, in one "
                "group, that began alike; collect several attempts a task, or use KTO"
            )
        answers = {"ref_chosen_logps": "chosen_ids", "ref_rejected_logps": "rejected_ids"}
    else:
        for turn, good in labelled_turns(episodes):
            tokens = tokens_of(turn)
            if tokens is not None:
                examples.append({"prompt_ids": list(tokens[0]), "completion_ids": list(tokens[1]), "label": good})
        if len({example["label"] for example in examples}) < 2:
            raise ConfigError(
                f"KTO needs turns of successes and of failures, the {len(episodes)} episodes have not both; collect "
                "more, or fine-tune on what there is"
            )
        answers = {"ref_logps": "completion_ids", "ref_KL_logps": "KL_completion_ids"}
    examples = [examples[index] for index in rng.permutation(len(examples))]
    if isinstance(config.method, KTO):
        for start in range(0, len(examples), config.examples_per_pass):  # each answer at its neighbour's prompt
            group = examples[start : start + config.examples_per_pass]
            for place, example in enumerate(group):
                example["KL_completion_ids"] = group[place - 1]["completion_ids"]
    for name, answer in answers.items():
        rows = [_row(example["prompt_ids"], example[answer]) for example in examples]
        with config.network.computing(policy.model):
            logp_N = measure(policy.model, rows, config.micro_batch_tokens).logp_N
        sums = [part.sum().item() for part in logp_N.split([row.num_sampled for row in rows])]
        for example, total in zip(examples, sums, strict=True):
            example[name] = total
    return examples


def _holding(policy: LocalPolicy, episodes: Sequence[Episode], wanted: Collection[Sequence[int]]) -> list[str]:
    """Ids of the episodes with a turn whose prompt and answer are one of these."""
    tokens_of = written_tokens(policy)
    found = ((episode.id, tokens_of(turn)) for episode in episodes for turn in episode.turns)
    return [id for id, tokens in found if tokens is not None and [*tokens[0], *tokens[1]] in wanted]


def _row(prompt: Sequence[int], answer: Sequence[int]) -> Row:
    num = len(prompt) + len(answer)
    zeros = np.zeros(num, np.int32)
    sampled = np.arange(num) >= len(prompt)
    return Row(
        0, np.array([*prompt, *answer], np.int64), sampled, zeros.astype(np.int8), zeros.astype(np.float32), zeros
    )


def _make_trainer(
    policy: LocalPolicy,
    dataset: Any,
    config: PreferenceConfig,
    folder: str,
    seed: int,
    told: Callable[[int, Mapping[str, float]], None],
    episodes: Sequence[Episode] = (),
) -> Any:
    """TRL's trainer of the method, ready to train, that takes the examples as they are."""
    import trl
    from transformers import PrinterCallback, TrainerCallback

    method = config.method
    base, settings = (trl.DPOTrainer, trl.DPOConfig) if isinstance(method, DPO) else (trl.KTOTrainer, trl.KTOConfig)

    class Recorded(base):  # type: ignore[misc, valid-type]
        def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
            return dataset

        def compute_loss(self, model: Any, inputs: Any, *args: Any, **options: Any) -> Any:
            found = super().compute_loss(model, inputs, *args, **options)
            loss = found[0] if isinstance(found, tuple) else found
            if not torch.isfinite(loss).all():
                seen = zip(inputs["input_ids"], inputs["attention_mask"], strict=True)
                wanted = [ids[mask.bool()].tolist() for ids, mask in seen]
                raise PolicyFault(
                    f"the loss of step {self.state.global_step} is not finite; lower learning_rate. It was of "
                    f"{named(_holding(policy, episodes, wanted))}"
                )
            return found

        def _precompute_ref_logps(self, dataset: Any, *_: Any) -> Any:
            return dataset

    class Told(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if "loss" in logs:
                told(state.global_step - 1, {name: float(value) for name, value in logs.items()})

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of a name of transformers' that TRL's own defaults use
        arguments = settings(
            folder,
            max_steps=config.steps,
            per_device_train_batch_size=config.examples_per_pass,
            gradient_accumulation_steps=config.examples_per_step // config.examples_per_pass,
            learning_rate=config.learning_rate,
            warmup_steps=config.warmup_steps,
            weight_decay=config.weight_decay,
            max_grad_norm=config.max_grad_norm,
            max_length=None,  # a cut answer is another answer
            precompute_ref_log_probs=True,
            bf16=config.network.precision == "bfloat16",
            gradient_checkpointing=config.network.checkpointing,
            use_cpu=policy.model.device.type == "cpu",
            seed=seed % 2**32,
            logging_steps=1,
            logging_nan_inf_filter=False,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            **method.model_dump(exclude={"name", "per_group"}),
        )
    trainer = Recorded(
        policy.model,
        args=arguments,
        train_dataset=dataset,
        processing_class=copy.deepcopy(policy.tokenizer),  # TRL gives it a padding token
        callbacks=[Told()],
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


@contextmanager
def _own_randomness() -> Iterator[None]:
    """Transformers seeds every global generator; the caller's go on afterwards as if nothing had been."""
    theirs, numpys = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            random.setstate(theirs)
            np.random.set_state(numpys)
