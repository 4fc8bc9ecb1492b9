from __future__ import annotations

import math

import pytest

from agentkit.bench import harm


def test_harm_is_summarised_by_medians_and_shares() -> None:
    summary = harm._summary(harm.Found([(10.0, 5.0), (40.0, 31.0), (math.inf, math.inf)], [True, False]))
    assert summary["candidate, median"] == 40.0
    assert summary["shown, at most 30"] == pytest.approx(1 / 3)
    assert summary["never"] == pytest.approx(1 / 3)
    assert summary["harmless, ever"] == 0.5
    assert harm._summary(harm.Found([(math.inf, math.inf)], []))["shown, median"] is None
