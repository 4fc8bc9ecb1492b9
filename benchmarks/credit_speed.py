"""CPU seconds of advantages and token credit for 1,000 episodes of 20 turns of 100 tokens, on one thread.

Run: python benchmarks/credit_speed.py. Episodes and rows are built before; a value head's and the networks' numbers are
random. Each line is the median of five runs after a first one, in CPU seconds of the process. An advantage's line
holds the spreading of its turns over tokens; the limit of an advantage and a credit scheme together is 0.5 s.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch

from agentkit.memory.records import Episode, Role, Turn
from agentkit.task import Task
from agentkit.training.advantages import (
    ACE,
    CANON,
    GAE,
    GRPO,
    MCGRPO,
    RLOO,
    UIS1,
    Amplify,
    ArCHer,
    DrGRPO,
    GiGPO,
    Novelty,
    Outcomes,
    ReinforcePlusPlus,
    Spread,
    TurnReturns,
)
from agentkit.training.advantages.values import TurnValues
from agentkit.training.credit import D3S, ActFocus, Credit, Forks, Pivot, Product, Recalled, Uniform, weighed
from agentkit.training.forward import TokenStats
from agentkit.training.rows import build_rows
from agentkit.training.stream import flatten, per_token

EPISODES, GROUP, TURNS, TOKENS = 1000, 8, 20, 100
LIMIT_S = 0.5


def main() -> None:
    """Print the table; exit with 1 if an advantage and a credit scheme take longer together than the limit."""
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    episodes = [episode(number, rng) for number in range(EPISODES)]
    rows = build_rows(episodes)[0]
    outcomes = Outcomes.of(episodes, 0.1)
    turn_N = np.concatenate([outcomes.starts[row.episode] + row.turns[row.sampled] for row in rows])
    outcomes = outcomes.told(
        turn_N, reference_logp_N=rng.normal(-1, 0.1, len(turn_N)), entropy_N=rng.uniform(0, 2, len(turn_N))
    )

    def spread(estimate: Callable[[], Any]) -> Callable[[], Any]:
        return lambda: per_token(rows, outcomes.starts, estimate())

    print(f"{EPISODES} episodes, {len(outcomes.reward_U)} turns, {len(turn_N)} tokens\n\n| part | CPU s |\n|---|---|")
    show("Outcomes.of", lambda: Outcomes.of(episodes, 0.1, reward_range=(-1, 1)))
    advantages = [
        show(name, spread(partial(one.turns, outcomes)))
        for name, one in {
            "grpo": GRPO(),
            "dr-grpo": DrGRPO(),
            "rloo": RLOO(),
            "mc-grpo": MCGRPO(),
            "reinforce++": ReinforcePlusPlus(),
            "reinforce++, group baseline": ReinforcePlusPlus(baseline="group"),
            "turn-returns": TurnReturns(),
            "ui-s1": UIS1(),
            "gigpo": GiGPO(),
            "gigpo over episodes": GiGPO(episodes_over="episodes"),
        }.items()
    ]
    values_N, values_2U = rng.normal(size=len(turn_N)), torch.randn(2, len(outcomes.reward_U))
    advantages += [
        show("gae", lambda: torch.from_numpy(GAE().estimate(outcomes, turn_N, values_N).advantage_N).float()),
        show("archer", spread(lambda: ArCHer().estimate(TurnValues(values_2U, values_2U)))),
    ]
    advantage_U = GRPO().turns(outcomes)
    modifiers = [
        show(name, partial(one.turns, advantage_U, outcomes))
        for name, one in {
            "ace": ACE(),
            "canon by length": CANON(),
            "canon by entropy": CANON(metric="entropy"),
            "amplify": Amplify(best="factor"),
            "novelty": Novelty(),
            "spread": Spread(),
        }.items()
    ]
    reference, policy = (TokenStats(*torch.randn(3, len(turn_N))) for _ in range(2))
    stream = flatten(rows, per_token(rows, outcomes.starts, advantage_U), reference=reference, policy=policy)
    schemes: dict[str, Credit] = {
        "uniform": Uniform(),
        "actfocus": ActFocus(),
        "actfocus by entropy": ActFocus(signal="entropy"),
        "actfocus by nll": ActFocus(signal="nll"),
        "actfocus by shift": ActFocus(signal="shift"),
        "forks": Forks(),
        "d3s": D3S(),
        "recalled": Recalled(),
        "pivot": Pivot(),
        "actfocus × forks × pivot": Product(factors=(ActFocus(), Forks(), Pivot())),
    }
    credits = [show(name, partial(weighed, scheme, stream)) for name, scheme in schemes.items()]
    worst = max(advantages) + max(modifiers) + max(credits)
    print(f"\nslowest advantage, modifier and scheme together: {worst:.3f} s (limit {LIMIT_S} s)")
    raise SystemExit(worst > LIMIT_S)


def show(name: str, run: Callable[[], Any]) -> float:
    """Print and return the median CPU seconds of five runs."""
    run()
    times = []
    for _ in range(5):
        begun = time.process_time()
        run()
        times.append(time.process_time() - begun)
    print(f"| {name} | {statistics.median(times):.4f} |")
    return statistics.median(times)


def episode(number: int, rng: np.random.Generator) -> Episode:
    """A conversation of turns whose prompts continue the row: thought, action, end."""
    roles = (Role.THOUGHT,) * (TOKENS - 10) + (Role.ACTION,) * 9 + (Role.FORMAT,)
    turns, prompt = [], (1, 2, 3)
    for turn in range(TURNS):
        ids = tuple(rng.integers(5, 1000, TOKENS).tolist())
        turns.append(
            Turn(
                observation="",
                response="",
                prompt_ids=prompt,
                prompt_roles=(Role.OBSERVATION,) * len(prompt),
                response_ids=ids,
                response_roles=roles,
                logprobs=tuple(rng.normal(-1, 0.3, TOKENS).tolist()),
                reward=float(rng.integers(0, 3)) / 10,
                state_key=str(rng.integers(0, 30)),
                valid=bool(rng.uniform() < 0.95),
                memory_ids=("m",) if turn % 3 == 0 else (),
            )
        )
        prompt = (*prompt, *ids, 4)
    return Episode(
        id=str(number),
        task=Task(env_id="test/Env-v0", seed=number // GROUP),
        group_id=str(number // GROUP),
        turns=tuple(turns),
        success=bool(rng.uniform() < 0.5),
        parent_id=str(number - 1) if number % 4 == 3 else None,
        parent_turn=5 if number % 4 == 3 else None,
    )


if __name__ == "__main__":
    main()
