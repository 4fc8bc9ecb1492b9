"""Memories found by their words: exactly as of a snapshot, by any text, and gone once forgotten."""

from __future__ import annotations

import math
import sqlite3
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentkit.memory import journal, lexical
from agentkit.memory.embedders import HashEmbedder
from agentkit.memory.kinds import Draft, FactBody, Source
from agentkit.memory.lexical import Lexical, absence, words_of
from agentkit.memory.store import MemoryStore


def open_store(folder: Path) -> MemoryStore:
    return MemoryStore.open(folder, embedder=HashEmbedder(32), index="exact", gate=None)


def note(text: str, subject: str = "", **changes: object) -> Draft:
    given = {
        "body": FactBody(subject=subject or text, relation="is", value="so"),
        "text": text,
        "keys": {"state": "."},
        "env_id": "test/Env-v0",
        "source": Source(writer="environment", name="log"),
    }
    return Draft(**{**given, **changes})  # type: ignore[arg-type]


def search(
    store: MemoryStore, text: str, k: int = 10, arm: Lexical | None = None, **options: object
) -> dict[str, float]:
    """Text of what is found -> its score, in order."""
    with store.database.reading() as connection:
        scope = store.scope(connection, **options)  # type: ignore[arg-type]
        found = (arm or Lexical()).search(connection, text, k, scope)
        memory_of = {row.seq: journal.memory_of(row) for row in journal.rows_of(connection, list(found))}
    return {memory_of[seq].text: score for seq, score in found.items()}


@pytest.fixture
def store(tmp_path: Path):
    with open_store(tmp_path / "store") as store:
        yield store


def bm25(query: str, texts: list[str]) -> list[float]:
    """The oracle: Robertson & Zaragoza's formula in a plain loop, as a share of what the query is worth."""
    held = [Counter(words_of(text)) for text in texts]
    mean = sum(map(Counter.total, held)) / len(held)
    scores, worth = [0.0] * len(texts), 0.0
    for word in set(words_of(query)):
        num = sum(word in one for one in held)
        idf = math.log(1 + (len(texts) - num + 0.5) / (num + 0.5))
        worth += idf
        for place, one in enumerate(held):
            long = 1.2 * (0.25 + 0.75 * one.total() / mean)
            scores[place] += idf * one[word] * 2.2 / (one[word] + long)
    return [score / worth for score in scores]


def test_a_score_worked_by_hand(store):
    store.write([note("red key"), note("blue key")])
    # Both words are known; N = 2. red is in 1: log(1 + 1.5 / 1.5) = log 2; key is in 2: log(1 + 0.5 / 2.5) = log 1.2.
    # Texts of common length that hold a word once have 2.2 / (1 + 1.2) = 1 of its idf.
    assert search(store, "red key") == pytest.approx(
        {"red key": 1.0, "blue key": math.log(1.2) / (math.log(2) + math.log(1.2))}
    )


def test_words_of_the_query_that_no_memory_holds_make_it_less_relevant(store):
    store.write([note("red key"), note("blue key")])
    [(_, known)] = search(store, "red").items()
    [(_, less)] = search(store, "red submarine").items()
    assert known == pytest.approx(1.0)
    assert less == pytest.approx(math.log(2) / (math.log(2) + math.log(6)))  # in none of 2: log(1 + 2.5 / 0.5)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.lists(st.sampled_from([*"abcde", "café", "Ωmega"]), min_size=1, max_size=8),
        min_size=1,
        max_size=8,
    ),
    st.lists(st.sampled_from([*"abcdef", "CAFÉ", "ωMEGA"]), min_size=1, max_size=4),
)
def test_scores_are_those_of_a_plain_loop_over_all_texts(tmp_path_factory, texts, query):
    with open_store(tmp_path_factory.mktemp("store")) as store:
        said = [" ".join(words) for words in texts]
        store.write([note(text, subject=str(number)) for number, text in enumerate(said)])
        expected = {text: score for text, score in zip(said, bm25(" ".join(query), said), strict=True) if score > 0}
        found = search(store, " ".join(query))
        assert found == pytest.approx(expected)
        assert list(found.values()) == sorted(found.values(), reverse=True)


def test_keys_are_searched_too(store):
    store.write([note("nothing", keys={"goal": "find the lantern"}), note("else")])
    assert list(search(store, "lantern")) == ["nothing"]


@pytest.mark.parametrize(
    "text",
    ["", "   ", '"', '"key', "key AND", "NEAR(key)", "key*", "^key", "text:key", "-", "NOT", "' OR 1=1 --", "\0key\0",
     "\ud800key", "key\udfff", "ключ 鍵 🔑", "(" * 999, "{slot}", "a" * 100_000, "key " * 2_500_000],
    ids=lambda text: ascii(text[:12]),
)  # fmt: skip
def test_any_text_may_be_asked(store, text):
    store.write([note("a key"), note("ключ")])
    found = search(store, text)
    assert set(found) <= {"a key", "ключ"}
    assert ("a key" in found) == ("key" in words_of(text[:4000]))


def test_only_what_is_in_scope_is_found(store):
    store.write(
        [
            note("key one"),
            note("key two", env_id="other"),
            note("key three", namespace="theirs"),
            note("key four", status="quarantine"),
            note("key five", task_key="t5"),
            note("key six", split="held_out"),
            note("key seven", valid_to=5.0),
        ]
    )
    everything = {"key one", "key two", "key five", "key six", "key seven"}
    assert set(search(store, "key")) == everything
    assert set(search(store, "key", env_id="other")) == {"key two"}
    assert set(search(store, "key", namespaces=["theirs"])) == {"key three"}
    assert set(search(store, "key", exclude_tasks=["t5"])) == everything - {"key five"}
    assert set(search(store, "key", split="held_out")) == {"key six"}
    assert set(search(store, "key", kinds=["skill"])) == set()
    assert set(search(store, "key", at_s=9.0)) == everything - {"key seven"}
    assert len(search(store, "key", k=2)) == 2


def test_a_snapshot_gives_the_same_numbers_whatever_is_written_later(store):
    [first] = store.write([note("a red key", subject="key")])
    store.write([note("a door")])
    snapshot = store.snapshot()
    before = search(store, "red key")
    store.write([note("a blue key", subject="key"), *(note(f"red thing {number}") for number in range(50))])
    assert search(store, "red key", snapshot=snapshot) == before == {"a red key": pytest.approx(before["a red key"])}
    assert "a blue key" in search(store, "red key")
    assert "a red key" not in search(store, "red key")
    assert store.get(first.id).version == 2


def test_what_cannot_be_recalled_is_worth_nothing_by_hand(store):
    [_, _, lie, old] = store.write(
        [note("a long red story", subject="one"), note("blue key"), note("red"), note("key")]
    )
    store.write([note("red key", subject="one")])
    store.decide(lie.id, "quarantine")
    store.decide(old.id, "retired")
    # What can be recalled is `red key` and `blue key`, so N, n and the common length are as in the first test.
    assert search(store, "red key") == pytest.approx(
        {"red key": 1.0, "blue key": math.log(1.2) / (math.log(2) + math.log(1.2))}, abs=1e-12
    )


def test_a_memory_on_probation_counts_and_none_at_all_are_no_trouble(store):
    [one, two] = store.write([note("red key"), note("blue key", status="probation")])
    assert search(store, "blue") == pytest.approx({"blue key": 1.0})
    store.set_aside({one.id: "x", two.id: "x"})
    assert search(store, "red blue") == {}


WORDS = st.lists(st.sampled_from("abcd"), min_size=1, max_size=4)
DEEDS = st.lists(
    st.tuples(
        st.sampled_from(["retract", "retire", "dispute", "supersede and undo", "quarantine and undo", "forget"]),
        st.integers(0, 9),
        st.lists(WORDS, min_size=1, max_size=3),
    ),
    min_size=1,
    max_size=4,
)


def do(store: MemoryStore, deed: str, which: int, texts: list[str], some: list[str]) -> None:
    """Write texts and take them back; or change one of the memories that say `some`, and undo that."""
    subject = str(which % len(some))
    if deed == "supersede and undo":
        store.undo(store.revise([note(texts[0], subject=subject)], deed))
        return
    if deed == "quarantine and undo":
        store.set_aside({journal.memory_id(note(some[int(subject)], subject=subject)): deed})
        store.undo(store.history()[-1].number)
        return
    source = Source(writer="model", name="attack")
    written = store.write([note(text, subject=f"new {text}", source=source) for text in texts])
    if deed == "retract":
        store.retract("attack")
    elif deed == "forget":
        store.forget(source_name="attack")
    else:
        for one in written:
            store.decide(one.id, "retired" if deed == "retire" else "disputed")


@settings(max_examples=40, deadline=None)
@given(texts=st.lists(WORDS, min_size=1, max_size=6), query=WORDS, deeds=DEEDS, k=st.integers(1, 6))
def test_what_is_written_and_taken_back_leaves_every_score_and_place_as_it_was(
    tmp_path_factory, texts, query, deeds, k
):
    with open_store(tmp_path_factory.mktemp("store")) as store:
        some = [f"{' '.join(words)} n{number}" for number, words in enumerate(texts)]
        store.write([note(text, subject=str(number)) for number, text in enumerate(some)])
        asked, arm = " ".join(query), Lexical()
        before, snapshot = list(search(store, asked, k, arm).items()), store.snapshot()
        scores = dict(zip(some, bm25(asked, some), strict=True))
        assert dict(before) == pytest.approx({text: scores[text] for text, _ in before}, abs=1e-12)
        for number, (deed, which, lies) in enumerate(deeds):
            do(store, deed, which, [f"{' '.join(words)} d{number}.{place}" for place, words in enumerate(lies)], some)
            for other, options in (
                (arm, {}),
                (Lexical(), {}),
                (arm, {"snapshot": snapshot}),
                (Lexical(), {"snapshot": snapshot}),
            ):
                found = list(search(store, asked, k, other, **options).items())
                assert [text for text, _ in found] == [text for text, _ in before]
                assert [score for _, score in found] == pytest.approx([score for _, score in before], abs=1e-12)


@settings(max_examples=25, deadline=None)
@given(writes=st.lists(st.tuples(st.integers(0, 3), WORDS, st.booleans()), min_size=1, max_size=8), query=WORDS)
def test_every_snapshot_keeps_the_numbers_it_had_when_it_was_the_newest(tmp_path_factory, writes, query):
    with open_store(tmp_path_factory.mktemp("store")) as store:
        arm, asked, told = Lexical(), " ".join(query), dict[str, dict[str, float]]()
        for number, (subject, words, retired) in enumerate(writes):
            [one] = store.write([note(f"{' '.join(words)} n{number}", subject=str(subject))])
            if retired:
                store.decide(one.id, "retired")
            told[store.snapshot()] = search(store, asked, arm=arm)
            texts = [memory.text for memory in store.held() if memory.status == "active"]
            scores = dict(zip(texts, bm25(asked, texts), strict=True)) if texts else {}
            assert told[store.snapshot()] == pytest.approx({text: score for text, score in scores.items() if score > 0})
        for snapshot, found in told.items():
            for other in (arm, Lexical()):
                assert search(store, asked, arm=other, snapshot=snapshot) == found


def test_words_are_chosen_by_how_many_can_be_recalled_as_far_as_that_can_be_read(store, monkeypatch):
    monkeypatch.setattr(lexical, "MOST_POSTINGS", 3)
    store.write([note("pair one"), note("pair two"), note("single three")])
    before = search(store, "pair single")
    assert len(before) == 3
    lies = store.write([note(f"single pair lie{number}") for number in range(4)])
    assert search(store, "pair single") == {}  # 5 and 6 of 3
    store.set_aside({one.id: "lie" for one in lies})
    assert search(store, "pair single") == before
    monkeypatch.setattr(lexical, "MOST_READ", 10)  # `single` is in 5 versions, `pair` in 6
    assert list(search(store, "pair single")) == ["single three"]


def test_a_word_in_too_many_versions_stays_out_whatever_becomes_of_them(store, monkeypatch):
    monkeypatch.setattr(lexical, "MOST_DOCUMENTS", 3)
    store.write([note("key one"), note("key two")])
    lies = store.write([note("key lie"), note("key lies")])
    store.set_aside({one.id: "lie" for one in lies})
    assert search(store, "key") == {}
    assert search(store, "key one") == {"key one": pytest.approx(1.0)}  # nor is it part of what that is worth


def test_what_is_kept_in_memory_is_bounded_and_changes_no_score(store, monkeypatch):
    store.write([note(f"key {number}") for number in range(20)])
    arm = Lexical()
    before = search(store, "key 7", arm=arm)
    assert set(arm._stands) == {"key", "7"}
    monkeypatch.setattr(lexical, "MOST_KEPT", 10)
    assert search(store, "8", arm=arm)
    assert set(arm._stands) == {"8"}
    assert search(store, "key 7", arm=arm) == before


def test_words_in_too_many_memories_are_left_out_and_the_rarest_come_first(store, monkeypatch):
    monkeypatch.setattr(lexical, "MOST_DOCUMENTS", 5)
    arm = Lexical()
    store.write([note(f"common rare{number}") for number in range(5)])
    snapshot = store.snapshot()
    assert len(search(store, "common", arm=arm)) == 5
    store.write([note("common rare5")])
    assert search(store, "common", arm=arm) == {}
    assert list(search(store, "common rare5", arm=arm)) == ["common rare5"]
    assert len(search(store, "common", arm=arm, snapshot=snapshot)) == 5  # as it was then, it still is
    monkeypatch.setattr(lexical, "MOST_POSTINGS", 3)
    store.write([note("pair one"), note("pair two"), note("pair three"), note("single one")])
    assert list(search(store, "pair single", arm=arm)) == ["single one"]  # 1 fits into 3 postings, 1 + 3 do not


def test_what_is_forgotten_is_in_no_byte_of_any_file(tmp_path):
    folder = tmp_path / "store"
    with open_store(folder) as store:
        store.write([note("the zanzibar password"), note("an ordinary door")])
        store.write([note("the zanzibar password and quetzalcoatl", subject="the zanzibar password")])
        store.write([note(f"filler {number} door") for number in range(300)])  # so that the index has several parts
        arm = Lexical()
        assert search(store, "quetzalcoatl zanzibar", arm=arm)
        doomed = next(memory for memory in store.held() if "zanzibar" in memory.text)
        store.forget(id=doomed.id)
        assert search(store, "quetzalcoatl zanzibar", arm=arm) == {}
        assert list(search(store, "ordinary", arm=arm)) == ["an ordinary door"]
        assert search(store, "ordinary door", arm=arm) == search(store, "ordinary door")
        texts = [path.read_bytes() for path in folder.rglob("*") if path.is_file()]
    assert not any(b"zanzibar" in text or b"quetzalcoatl" in text for text in texts)
    assert any(b"ordinary" in text for text in texts)
    texts = [path.read_bytes() for path in folder.rglob("*") if path.is_file()]
    assert not any(b"zanzibar" in text or b"quetzalcoatl" in text for text in texts)


def test_a_write_that_fails_leaves_no_words(store, monkeypatch):
    def fail(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("agentkit.memory.places.add", fail)  # after the words, in the same transaction
    with pytest.raises(ZeroDivisionError):
        store.write([note("a key")])
    assert search(store, "key") == {}
    monkeypatch.undo()
    store.write([note("a key")])
    assert list(search(store, "key")) == ["a key"]


def test_a_store_without_the_index_gets_it_when_it_is_opened(tmp_path):
    with open_store(tmp_path) as store:
        store.write([note("a key"), note("a door")])
        before = search(store, "key")
    with sqlite3.connect(tmp_path / "memory.sqlite") as raw:
        raw.execute("DROP TABLE words_at")
        raw.execute("DROP TABLE words")
    with open_store(tmp_path) as store:
        assert search(store, "key") == before


def test_where_words_cannot_be_indexed_the_reason_is_said(store):
    server = SimpleNamespace(dialect=SimpleNamespace(name="postgresql"))
    assert absence(server) == "words are searched by SQLite's FTS5, and the journal is in postgresql"  # type: ignore[arg-type]
    with store.database.writing() as connection:
        assert absence(connection) is None
        connection.exec_driver_sql("DROP TABLE words_at")
        assert absence(connection) == "this SQLite was built without FTS5"
