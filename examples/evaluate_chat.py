"""Evaluate a hosted model: any OpenAI-compatible endpoint, on a pinned panel, with intervals.

Run: python examples/evaluate_chat.py MODEL [BASE_URL]     (the key is taken from OPENAI_API_KEY)
"""

from __future__ import annotations

import sys

from agentkit import ChatPolicy, Sampling, evaluate, make_tasks


def main() -> None:
    """Play 32 held-out puzzles and print the report."""
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    policy = ChatPolicy(sys.argv[1], base_url=sys.argv[2] if len(sys.argv) == 3 else None)
    panel = make_tasks("agentkit/Sudoku-v0", "held_out", 32)
    report = evaluate(policy, panel, sampling=Sampling(temperature=0.5, max_new_tokens=400), concurrency=8)
    print(report.model_dump_json(indent=2))


if __name__ == "__main__":
    main()
