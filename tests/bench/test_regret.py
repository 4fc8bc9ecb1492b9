from __future__ import annotations

from agentkit.bench.regret import Chooser


def test_choosers_show_the_best_looking_and_no_more_than_there_are_places() -> None:
    counter = Chooser("success counter", 0)
    counter.learn(["d"], 1.0)
    counter.learn(["a"], 0.0)
    assert counter.choose(["a", "b", "c", "d"]) == ["d", "b", "c"]  # 2/3, 1/2, 1/2, 1/3
    careful = Chooser("counter, if above the mean", 0)
    careful.learn(["d"], 1.0)  # 2 of 3 in all
    assert careful.choose(["a", "d"]) == ["d"]
    assert Chooser("relevance", 0).choose(["a", "b", "c", "d"]) == ["a", "b", "c"]
    assert Chooser("nothing", 0).choose(["a"]) == []
