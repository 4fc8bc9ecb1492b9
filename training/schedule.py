"""Schedules: plain functions of a step, so that the step is all a checkpoint must keep."""

from __future__ import annotations

import math


def warmup(step: int, steps: int) -> float:
    """Rises linearly from 1/steps to 1 in the first `steps` steps, then stays.

    >>> [warmup(step, 4) for step in (0, 1, 3, 9)]
    [0.25, 0.5, 1.0, 1.0]
    """
    return min(1.0, (step + 1) / steps) if steps > 0 else 1.0


def cosine_ramp(step: int, steps: int) -> float:
    """½(1 − cos(π·step/steps)), then 1: the self-imitation ramp of SPEAR (arXiv 2509.22601, §2.2 of its code).

    >>> [round(cosine_ramp(step, 4), 3) for step in (0, 2, 4, 9)]
    [0.0, 0.5, 1.0, 1.0]
    """
    return 1.0 if step >= steps else 0.5 * (1 - math.cos(math.pi * step / steps))


def cosine_decay(step: int, steps: int, floor: float = 0.1) -> float:
    """Falls from 1 to `floor` along half a cosine, then stays.

    >>> [round(cosine_decay(step, 4, 0.0), 3) for step in (0, 2, 4)]
    [1.0, 0.5, 0.0]
    """
    progress = min(1.0, step / steps) if steps > 0 else 1.0
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))
