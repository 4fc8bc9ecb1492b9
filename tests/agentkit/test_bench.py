"""The benchmark runs, goes on where it was cut short, and tells when something is wrong."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from agentkit.bench import evidence, feedback, isolation, retrieval
from agentkit.bench.dialogues import make_dialogue, make_event_log
from agentkit.bench.suite import RESULTS, TABLES, run_tables
from agentkit.bench.table import Check, Scale, Table
from agentkit.bench.topics import SHARES, environment_of, fill, open_topics
from agentkit.bench.uplift import holm
from agentkit.cli.main import app
from agentkit.errors import RecordError, UnknownNameError
from agentkit.memory.kinds import Memory
from agentkit.memory.store import MemoryStore

TINY = Scale(size="tiny", kills=2)


@pytest.mark.parametrize("name", TABLES)
def test_every_table_is_measured_with_bars_beside_its_figures(name: str) -> None:
    [table] = run_tables(TINY, [name])
    assert table.name == name
    assert table.rows
    assert table.checks
    assert all(set(row) == set(table.columns) for row in table.rows)


def test_a_bar_is_met_on_its_own_side_only_and_never_by_what_is_not_a_number() -> None:
    def met(value: float, at: Any) -> bool:
        return Check(what="x", value=value, bar=1.0, at=at).met

    assert [met(value, "least") for value in (0.9, 1.0, 1.1, float("nan"))] == [False, True, True, False]
    assert [met(value, "most") for value in (0.9, 1.0, 1.1, float("nan"))] == [True, True, False, False]


def test_a_run_goes_on_where_it_was_cut_short(tmp_path: Path) -> None:
    done: list[Table] = []
    run_tables(TINY, ["retrieval"], folder=tmp_path, on_table=done.append)
    with (tmp_path / RESULTS).open("a") as file:
        file.write('{"settings": {"version": ')  # killed while it wrote
    [again] = run_tables(TINY, ["retrieval"], folder=tmp_path)
    assert again == done[0]
    assert len((tmp_path / RESULTS).read_text().splitlines()) == 2
    run_tables(Scale(size="tiny", seeds=1), ["retrieval"], folder=tmp_path)
    lines = (tmp_path / RESULTS).read_text().splitlines()
    assert len(lines) == 3  # another scale is measured
    assert json.loads(lines[2])["settings"]["seeds"] == 1


def test_results_that_are_none_are_refused(tmp_path: Path) -> None:
    (tmp_path / RESULTS).write_text("[1, 2]\n")
    with pytest.raises(RecordError, match=r"holds no results .* remove it"):
        run_tables(TINY, ["retrieval"], folder=tmp_path)


def test_results_that_cannot_be_written_are_refused_before_anything_is_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(retrieval, "measure", lambda scale: pytest.fail("it was measured"))
    (tmp_path / "file").write_text("")
    with pytest.raises(RecordError, match=r"cannot be written to .*file.* name another folder with --out"):
        run_tables(TINY, ["retrieval"], folder=tmp_path / "file")


def test_an_unknown_table_is_refused_before_anything_is_measured(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'retrieval'"):
        run_tables(TINY, ["retrieval", "retreival"], folder=tmp_path)
    assert not (tmp_path / RESULTS).exists()


def test_the_command_prints_and_writes_what_was_measured(tmp_path: Path) -> None:
    file = tmp_path / "all.json"
    arguments = ["memory", "bench", "--quick", "--only", "utility", "--seeds", "1", "--json", str(file)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0
    assert "success counter" in result.output
    assert "bars met" in result.output
    [table] = json.loads(file.read_text())["tables"]
    assert Table.model_validate(table).name == "utility"


def test_the_command_refuses_a_file_in_no_folder_before_it_measures(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["memory", "bench", "--json", str(tmp_path / "no" / "all.json")])
    assert result.exit_code != 0
    assert "there is no folder" in result.output


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_corrected_p_values_are_no_smaller_and_keep_their_order(ps: list[float]) -> None:
    corrected = holm(ps)
    assert all(p <= after <= 1.0 for p, after in zip(ps, corrected, strict=True))
    assert [corrected[place] for place in sorted(range(len(ps)), key=lambda place: ps[place])] == sorted(corrected)


@pytest.mark.parametrize("seed", range(5))
def test_a_generated_dialogue_answers_what_it_is_asked_about(seed: int) -> None:
    for corpus in (make_dialogue(seed), make_event_log(seed)):
        assert corpus == (make_dialogue if corpus.name.startswith("dialogue") else make_event_log)(seed)
        for question in corpus.questions:
            assert question.evidence <= set(corpus.turns)
            assert bool(question.evidence) == (question.sort != "adversarial")
            assert len(question.evidence) == {"multi-hop": 2, "adversarial": 0}.get(question.sort, 1)
    sorts = {question.sort for question in make_dialogue(seed).questions}
    assert sorts == {"single-hop", "multi-hop", "temporal", "open", "adversarial"}


def test_the_newest_statement_is_the_evidence_for_what_is_so_now() -> None:
    corpus = make_event_log(3)
    question = next(one for one in corpus.questions if one.sort == "temporal")
    thing = question.text.removeprefix("Where is ").removesuffix(" now?")
    verbs = ("put", "carried", "left", "set", "brought")
    moves = [id for id, text in corpus.turns.items() if any(f"{verb} {thing} " in text for verb in verbs)]
    assert question.evidence == {moves[-1]}


def test_an_arm_that_finds_the_evidence_first_scores_one_and_one_that_never_does_scores_nothing() -> None:
    corpora = [make_dialogue(seed, sessions=6) for seed in range(2)]
    perfect = {c.name: [dict.fromkeys(sorted(q.evidence), 1.0) for q in c.questions] for c in corpora}
    blind: evidence.Arm = {c.name: [{} for _ in c.questions] for c in corpora}
    for arm, score in ((perfect, "1.000"), (blind, "0.000")):
        for row in evidence._rows("arm", arm, corpora[:1], corpora[1:]):
            if row["recall@5"] is not None:
                assert {str(row[name])[:5] for name in ("recall@5", "recall@10", "MRR", "nDCG@10")} == {score}
    held_back = [row["held back"] for row in evidence._rows("arm", perfect, corpora[:1], corpora[1:])]
    assert held_back[-1] == 1.0  # nothing was found for what has no answer


def test_environments_of_memories_have_the_shares_that_their_names_say() -> None:
    places = [environment_of(number) for number in range(1000)]
    assert {name: places.count(name) for name in SHARES} == {"0.1 %": 1, "1 %": 10, "10 %": 100, "50 %": 500}


def test_a_store_that_overlooks_the_nearest_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recall = MemoryStore.recall

    def careless(self: MemoryStore, query: Any, k: int = 3, **scope: Any) -> list[Memory]:
        return recall(self, query, k + 1, **scope)[1:]

    with open_topics(tmp_path) as store:
        fill(store, 200)
        assert retrieval.measure_store(store, 200, 4)[0]["recall@10"] == 1.0
        monkeypatch.setattr(MemoryStore, "recall", careless)
        assert retrieval.measure_store(store, 200, 4)[0] | {"recall@50": None} == {
            "memories": 200,
            "in scope": "all",
            "recall@1": 0.0,
            "recall@10": 0.9,
            "recall@50": None,
        }


def test_a_store_that_forgets_a_condition_of_the_scope_leaks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recall = MemoryStore.recall

    def careless(self: MemoryStore, query: Any, k: int = 3, **scope: Any) -> list[Memory]:
        return recall(self, query, k, **{name: value for name, value in scope.items() if name != "split"})

    monkeypatch.setattr(MemoryStore, "recall", careless)
    found = isolation.fuzz(tmp_path, 30, 60, {"index": "exact"})
    assert int(found["leaks"] or 0) > 0


def test_the_table_of_feedback_tells_a_gate_that_admits_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    env_id = "agentkit/FrozenLake-v0"
    honest = feedback.measure_env(env_id, 2, 2)
    assert honest["junk"] == 0.0
    assert honest["duplicates"] == 0.0
    monkeypatch.setattr(feedback.Writer, "offer", lambda self, draft: "active")
    careless = feedback.measure_env(env_id, 2, 2)
    assert careless["fed back, new"] == careless["fed back"]
    assert careless["junk"] == pytest.approx(1 / 3)
    assert careless["duplicates"] == pytest.approx(1 / 3)
    assert float(careless["repeated"] or 0) > float(honest["repeated"] or 0)


def test_labelled_junk_is_of_three_sorts() -> None:
    from agentkit import ExpertPolicy, collect, make_tasks

    draft = feedback.drafts_from(collect(ExpertPolicy(), make_tasks("agentkit/FrozenLake-v0", num=1)))[0]
    empty, order, claim = (feedback.junk_of(draft, number, random.Random(0)) for number in range(3))
    assert not empty.text.strip()
    assert order.text.startswith(draft.text)
    assert claim.source.episode_ids == ("no such",)
