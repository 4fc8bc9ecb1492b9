"""Expressions of a grammar: what they may do, and that they may do no more."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from agentkit.errors import EnvironmentFault

pytestmark = pytest.mark.family("agentkit/ALFWorld-v0")
ENTITIES = {"o": SimpleNamespace(name="mug 1", indefinite="a"), "r": SimpleNamespace(name="", id="desk|1")}


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("o.name", "mug 1"),
        ("o", "mug 1"),
        ("o.indefinite + ' ' + o.name", "a mug 1"),
        ("r.name or r.id", "desk|1"),
        ("r.name or ''", ""),
    ],
)
def test_an_expression_reads_joins_and_chooses(expression: str, value: str) -> None:
    from agentkit.envs.alfworld.grammar import _reader

    assert _reader(expression)(ENTITIES) == value


@pytest.mark.parametrize(
    "expression",
    [
        "o.__class__",
        "o.name.upper()",
        "__import__('os')",
        "[o.name]",
        "o.name * 9",
        "o.name and o",
        "o.",
        "1",
        "o.name\0",
    ],
)
def test_an_expression_that_does_more_is_refused(expression: str) -> None:
    from agentkit.envs.alfworld.grammar import _reader

    with pytest.raises(EnvironmentFault, match="may not evaluate"):
        _reader(expression)


def test_a_rule_that_is_missing_is_named() -> None:
    from agentkit.envs.alfworld.grammar import Context, Grammar

    with pytest.raises(EnvironmentFault, match="no rule for #intro#"):
        Grammar({}, {}).derive("#intro#", Context({}, {}), lambda rule, bound: iter(()))


def test_games_that_differ_in_their_task_alone_share_the_other_rules() -> None:
    from agentkit.envs.alfworld.generated import _rules
    from agentkit.envs.alfworld.grammar import read_logic

    domain, grammar = _rules()
    (first, rules), (second, others) = (
        read_logic(domain, grammar.replace("UNKNOWN GOAL", task)) for task in ("put a mug in desk", "find two pen")
    )
    assert first is second
    assert rules["intro"] is others["intro"]
    assert [rules["task"][0].rhs[0].symbol, others["task"][0].rhs[0].symbol] == [
        "Your task is to: put a mug in desk.",
        "Your task is to: find two pen.",
    ]
