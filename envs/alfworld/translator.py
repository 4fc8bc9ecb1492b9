"""Run as a script: one PDDL problem on standard input becomes a planning task on standard output, both JSON.

It has a process of its own because Fast Downward's translator rewrites `sys.argv` and module-level options, ends the
interpreter on a malformed file, and knows no time limit.
"""

from __future__ import annotations

import json
import sys
from typing import Any


def translate(domain: str, problem: str) -> dict[str, Any]:
    """The planning task of a PDDL problem: SAS text, and what of the PDDL the game needs besides, as JSON values."""
    import fast_downward

    task, sas = fast_downward.pddl2sas(domain, problem)
    return {
        "sas": sas,
        "actions": {action.name: [[one.name, one.type_name] for one in action.parameters] for action in task.actions},
        "types": [[kind.name, kind.supertype_names] for kind in task.types],
        "objects": {thing.name: thing.type_name for thing in task.objects},
        "facts": sorted(fact for fact in map(_fact, task.init) if fact is not None),  # a set, unordered
    }


def _fact(given: Any) -> list[Any] | None:
    """[predicate, argument names] of an initial fact; None for equalities, costs and distances."""
    import fast_downward

    pddl = fast_downward.translate.pddl
    if isinstance(given, pddl.conditions.Atom):
        return None if given.predicate == "=" else [given.predicate, list(given.args)]
    if isinstance(given, pddl.f_expression.Assign):
        value = str(given.expression.value)
        if given.fluent.symbol != "total-cost" and not value.isdigit():
            return [value, list(given.fluent.args)]
    return None


if __name__ == "__main__":
    request = json.load(sys.stdin)
    answer = json.dumps(translate(request["domain"], request["problem"]))
    sys.stdout.write(answer)
