"""Long dialogues and event logs with questions and the turns that answer them, from a grammar and a seed.

In the manner of LoCoMo (Maharana et al. 2024): many sessions, most turns beside the point, five sorts of questions.
Everything here is generated, so that evidence is certain and no judge is needed. Questions use other words than turns.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from random import Random

from agentkit.bench import phrases


@dataclass(frozen=True)
class Question:
    """Something to look up."""

    text: str
    sort: str
    """`single-hop`, `multi-hop`, `temporal`, `open` (takes knowledge of the world) or `adversarial` (has no answer)."""
    evidence: frozenset[str]
    """Ids of the turns that answer it, all of them needed."""


@dataclass
class Corpus:
    """Turns to search, and questions about them."""

    name: str
    turns: dict[str, str] = field(default_factory=dict)
    """Id -> text, in order."""
    questions: list[Question] = field(default_factory=list)

    def say(self, text: str) -> str:
        """Add a turn; returns its id."""
        id = f"{self.name}:{len(self.turns)}"
        self.turns[id] = text
        return id

    def ask(self, text: str, sort: str, *evidence: str) -> None:
        """Add a question."""
        self.questions.append(Question(text, sort, frozenset(evidence)))


def make_dialogue(seed: int, sessions: int = 20, turns: int = 20) -> Corpus:
    """Two friends talk in `sessions` of `turns` about themselves, their kin, and mostly nothing.

    One turn in four says a fact; jobs, homes and books change in later sessions.
    """
    rng = Random(f"dialogue {seed}")
    corpus = Corpus(f"dialogue {seed}")
    names = rng.sample(phrases.NAMES, 6)
    speakers, kin = names[:2], dict(zip(names[2:], rng.sample(phrases.KIN, 4), strict=True))
    said: dict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)  # (person, topic) -> (value, turn)
    kinship: dict[str, str] = {}
    facts = _facts(rng, speakers, list(kin))
    for session in range(sessions):
        date = f"{rng.randint(1, 28)} {phrases.MONTHS[session % 12]} {2023 + session // 12}"
        for number in range(turns):
            speaker, other = speakers[number % 2], speakers[1 - number % 2]
            line = rng.choice(phrases.SMALL_TALK).format(other=other, topic=rng.choice(phrases.DISTRACTIONS))
            person, topic, value = "", "", ""
            if number % 4 == 1 + session % 3 and facts and rng.random() < 0.6:
                person, topic, value = facts.pop()
                if person in speakers:
                    speaker, other = person, next(name for name in speakers if name != person)
                    line = rng.choice(phrases.TOPICS[topic].first).format(value=value)
                else:
                    line = rng.choice(phrases.TOPICS[topic].third).format(person=person, value=value)
            elif number == turns - 1 and session < len(kin):
                person = list(kin)[session]
                speaker = speakers[session % 2]
                line = f"{person} is my {kin[person]}, by the way."
            id = corpus.say(f"[{date}] {speaker}: {line}")
            if topic:
                said[person, topic].append((value, id))
            elif person:
                kinship[person] = id
    owner = {person: speakers[place % 2] for place, person in enumerate(kin)}
    _ask_about(corpus, rng, dict(said), speakers, {p: (owner[p], kin[p], kinship[p]) for p in kinship})
    return corpus


def _facts(rng: Random, speakers: list[str], kin: list[str]) -> list[tuple[str, str, str]]:
    """(person, topic, value) in the order in which `pop` gives them; what changes is said again with another value."""
    early, late = [], []
    for person in (*speakers, *kin):
        known = rng.sample(sorted(phrases.TOPICS), len(phrases.TOPICS) - 3)  # the others make adversarial questions
        for topic in known:
            values = rng.sample(sorted(phrases.TOPICS[topic].values), 2)
            early.append((person, topic, values[0]))
            if phrases.TOPICS[topic].changes:
                late.append((person, topic, values[1]))
    rng.shuffle(early)
    rng.shuffle(late)
    return [*late, *early]


def _ask_about(
    corpus: Corpus,
    rng: Random,
    said: dict[tuple[str, str], list[tuple[str, str]]],
    speakers: list[str],
    kin: dict[str, tuple[str, str, str]],
) -> None:
    for (person, name), told in said.items():
        topic = phrases.TOPICS[name]
        (value, first), (_, last) = told[0], told[-1]
        if len(told) > 1:
            corpus.ask(topic.ask_now.format(person=person), "temporal", last)
            corpus.ask(topic.ask_first.format(person=person), "temporal", first)
        else:
            corpus.ask(rng.choice(topic.ask).format(person=person), "single-hop", first)
            if topic.values[value]:
                corpus.ask(topic.ask_world.format(person=person, hint=topic.values[value]), "open", first)
        if person in kin and len(told) == 1:
            owner, relation, stated = kin[person]
            corpus.ask(rng.choice(topic.ask).format(person=f"{owner}'s {relation}"), "multi-hop", stated, first)
    people = (*speakers, *kin)
    silent = [(person, name) for person in people for name in sorted(phrases.TOPICS) if (person, name) not in said]
    for person, name in silent:
        corpus.ask(rng.choice(phrases.TOPICS[name].ask).format(person=person), "adversarial")


def make_event_log(seed: int, events: int = 400) -> Corpus:
    """Robots of a house move, clean and mend things; where a thing is changes all the time."""
    rng = Random(f"log {seed}")
    corpus = Corpus(f"log {seed}")
    things = [f"{kind} {number}" for kind in phrases.THINGS for number in (1, 2, 3)]
    places = [f"{kind} {number}" for kind in phrases.PLACES for number in (1, 2)]
    robots = rng.sample(phrases.NAMES, 4)
    at: dict[str, str] = {}
    mended: dict[str, tuple[str, str]] = {}
    for number in range(events):
        when = f"day {1 + number // 20}, {8 + number % 20 // 2:02}:{30 * (number % 2):02}"
        robot, thing = rng.choice(robots), rng.choice(things)
        if rng.random() < 0.06 and thing not in mended:
            mended[thing] = (
                f"{robot} repaired on {when.split(',')[0]}",
                corpus.say(f"{when}. {robot} mended {thing}."),
            )
        elif rng.random() < 0.5:
            at[thing] = corpus.say(f"{when}. {robot} {rng.choice(phrases.MOVES).format(thing)} {rng.choice(places)}.")
        else:
            corpus.say(f"{when}. {robot} {rng.choice(phrases.CHORES)} {rng.choice(places)}.")
    deeds = [deed for deed, _ in mended.values()]
    for thing in things:
        if thing in at:
            corpus.ask(f"Where is {thing} now?", "temporal", at[thing])
        if thing not in mended:
            corpus.ask(f"Who repaired {thing}?", "adversarial")
            continue
        deed, turn = mended[thing]
        corpus.ask(f"Who repaired {thing}?", "single-hop", turn)
        if thing in at and deeds.count(deed) == 1:
            corpus.ask(f"Where is the object that {deed}?", "multi-hop", turn, at[thing])
    return corpus
