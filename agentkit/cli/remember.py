"""`agentkit memory`: build a memory store from an episode log, look into it, and mend it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from agentkit.cli.choices import open_log, open_memory
from agentkit.cli.options import Embedder
from agentkit.cli.show import errors, say, show_table
from agentkit.errors import RecordError

memory_app = typer.Typer(no_args_is_help=True, help="Build a memory from recorded episodes, search and mend it.")

Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder of the memory.")]
Id = Annotated[str, typer.Argument(metavar="ID", help="Id of a memory, as `search` shows it.")]


@memory_app.command(
    "build", epilog="Example: agentkit memory build runs/lake/episodes.sqlite --out runs/memory --embedder hash"
)
def build_memory(
    log: Annotated[str, typer.Argument(metavar="LOG", help="Episode log: a path or a database URL.")],
    out: Annotated[Path, typer.Option("--out", help="Folder of the memory; made, or brought up to date.")],
    embedder: Embedder = None,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Make index and vectors anew: after damage, or for another embedder.")
    ] = False,
    kinds: Annotated[
        str, typer.Option("--kinds", help="What to remember, e.g. episode,failure,insight,skill; also step, fact.")
    ] = "episode",
) -> None:
    """Remember the successes of an episode log, and what else it teaches."""
    with (
        open_log(log) as episodes,
        errors.status("remembering"),
        open_memory(out, embedder, make=True, rebuild=rebuild) as memory,
    ):
        wanted: Any = [kind.strip() for kind in kinds.split(",") if kind.strip()]  # `sync` refuses unknown ones
        new = memory.sync(episodes, wanted)
        say(f"{new} new memories, {len(memory)} in {out}")


@memory_app.command(
    "search", epilog='Example: agentkit memory search runs/memory "P _ O\\n_ _ G" --k 3 --embedder hash'
)
def search_memory(
    folder: Folder,
    text: Annotated[str, typer.Argument(metavar="TEXT", help="What the situation looks like.")],
    k: Annotated[int, typer.Option("--k", min=1, help="Most memories to show.")] = 3,
    embedder: Embedder = None,
) -> None:
    """Show the memories whose situation is nearest to a text."""
    with errors.status("searching"), open_memory(folder, embedder) as memory:
        found = memory.recall(text, k)
    if not found:
        say(f"the memory in {folder} is empty")
        return
    for one in found:
        score = 0.0 if one.score is None else one.score
        show_table(("", ""), [(f"{score:.3f}", f"{one.id}  {one.env_id} ({one.split})")])
        say(one.text + "\n")


@memory_app.command("stats", epilog="Example: agentkit memory stats runs/memory --embedder hash")
def show_stats(folder: Folder, embedder: Embedder = None) -> None:
    """Show how many memories there are of each kind and status, and the writes they came with."""
    with open_memory(folder, embedder) as memory:
        counts, writes, snapshot = memory.counts(), memory.history(), memory.snapshot()
        seen, effect = memory.ledger.counts(), memory.ledger.effect_of_memory()
    show_table(("kind", "status", "memories"), [(kind, status, num) for (kind, status), num in sorted(counts.items())])
    say(f"\n{sum(counts.values())} memories in {len(writes)} writes; snapshot {snapshot}")
    rows = [(write.number, _moment(write.time_s), write.num_versions, write.what) for write in writes[-10:]]
    show_table(("write", "at", "versions", "what"), rows)
    say(f"\n{seen['exposures']} exposures, {seen['outcomes']} outcomes, {seen['both']} episodes with both")
    if effect.num_shown and effect.num_hidden:
        say(
            f"success with memory {effect.uplift:+.3f} [{effect.low:+.3f}, {effect.high:+.3f}]: "
            f"{effect.num_shown} episodes with it, {effect.num_hidden} held out"
        )


@memory_app.command("why", epilog="Example: agentkit memory why runs/memory m-0123456789abcdef --embedder hash")
def explain_memory(
    folder: Folder,
    id: Id,
    embedder: Embedder = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show why a memory is what it is: where it came from, what became of it, and what it is worth."""
    from agentkit.memory.provenance import why

    with open_memory(folder, embedder) as memory:
        found = why(memory, id)
    if as_json:
        say(found.model_dump_json())
        return
    worth = found.utility
    rows = [
        ("memory", f"{found.id} ({found.kind}, {found.status})"),
        *(("because", reason) for reason in found.reasons),
        ("written by", " ".join(filter(None, (found.source.writer, found.source.name)))),
        ("episodes", ", ".join(found.episode_ids) or "-"),
        ("turns", ", ".join(map(str, found.turns)) or "all"),
        ("recalls", f"shown in {found.num_shown}, a candidate and not shown in {found.num_hidden}"),
        ("uplift", f"{worth.uplift:+.3f} [{worth.low:+.3f}, {worth.high:+.3f}]"),
        ("helps", f"with probability {worth.chance:.2f}; evidence of harm {worth.harm:.1f}"),
    ]
    show_table(("", ""), rows)
    if found.ancestors:
        parents = [(one.depth, one.id, one.kind or "gone", one.status or "-", one.text[:60]) for one in found.ancestors]
        show_table(("generation", "made from", "kind", "status", "text"), parents)
    versions = [(one.version, _moment(one.recorded_s), one.status, one.write, one.what) for one in found.versions]
    show_table(("version", "at", "status", "write", "what"), versions)


@memory_app.command("evict", epilog="Example: agentkit memory evict runs/memory --keep 500 --apply --embedder hash")
def evict_memories(
    folder: Folder,
    keep: Annotated[int, typer.Option("--keep", min=0, help="Memories that are recalled afterwards.")],
    embedder: Embedder = None,
    pins: Annotated[list[str] | None, typer.Option("--pin", help="Id of a memory to keep in any case.")] = None,
    apply: Annotated[bool, typer.Option("--apply", help="Retire them; without it, only the plan is shown.")] = False,
) -> None:
    """Show which memories to retire so that so many are left, or retire them; `undo` brings them back."""
    from agentkit.memory.lifecycle import apply_eviction, plan_eviction

    with errors.status("planning"), open_memory(folder, embedder) as memory:
        plan = plan_eviction(memory, keep, pins=pins or ())
        write = apply_eviction(memory, plan) if apply else 0
    show_table(("score", "memory", "why"), [(f"{one.score:+.3f}", one.id, one.why) for one in plan.evicted])
    if plan.over:
        say(f"{len(plan.kept)} are pinned or trusted, {plan.over} more than asked for")
    done = f"retired in write {write}" if write else "would be retired; add --apply" if plan.evicted else "to retire"
    say(f"{len(plan.kept)} memories kept, {len(plan.evicted)} {done}")


@memory_app.command("show", epilog="Example: agentkit memory show runs/memory m-0123456789abcdef --embedder hash")
def show_memory(folder: Folder, id: Id, embedder: Embedder = None) -> None:
    """Show a memory: what it says, where it came from, and its versions."""
    with open_memory(folder, embedder) as memory:
        versions = memory.versions(id)
    if not versions:
        raise RecordError(f"there is no memory {id!r} in {folder}; `agentkit memory search` shows ids")
    newest = versions[-1]
    about = newest.model_dump(mode="json", exclude={"text", "score", "id"})
    show_table(("", ""), [(name, value) for name, value in about.items() if value not in (None, "", [], {})])
    say("\n" + newest.text + "\n")
    rows = [(one.version, _moment(one.recorded_s), one.status, one.text.splitlines()[0][:60]) for one in versions]
    show_table(("version", "at", "status", "text"), rows)


@memory_app.command("doctor", epilog="Example: agentkit memory doctor runs/memory --repair --embedder hash")
def examine_memory(
    folder: Folder,
    embedder: Embedder = None,
    repair: Annotated[bool, typer.Option("--repair", help="Make the index anew if it is at fault.")] = False,
    suspects: Annotated[bool, typer.Option("--suspects", help="Also list memories that look like an attack.")] = False,
    quarantine: Annotated[
        bool, typer.Option("--quarantine", help="Put these in quarantine, as one write that `undo` takes back.")
    ] = False,
    index: Annotated[
        str | None,
        typer.Option("--index", help="Where the index is to be from now on: `chroma`, or the URL of a Chroma server."),
    ] = None,
) -> None:
    """Check journal and index; ends with status 1 if something is wrong that was not repaired."""
    from agentkit.memory.watch import quarantine_suspects

    with errors.status("checking"), open_memory(folder, embedder, index=index) as memory:
        problems = memory.verify()
        for problem in problems:
            say(problem)
        if problems and repair:
            memory.rebuild()
            problems = memory.verify()
            say("the index was made anew" if not problems else f"still wrong: {problems[0]}")
        if (suspects or quarantine) and not problems:
            found = quarantine_suspects(memory, dry_run=not quarantine)
            show_table(("suspect", "what"), [(one.memory_id, f"{one.detector}: {one.sentence}") for one in found])
            say(f"{len(found)} suspects{' put in quarantine' if found and quarantine else ''}")
        if not problems:
            say(f"{len(memory)} memories, all in order")
    if problems:
        raise typer.Exit(1)


@memory_app.command("snapshot", epilog="Example: agentkit memory snapshot runs/memory before-tuning --embedder hash")
def name_snapshot(
    folder: Folder,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name for what the memory holds now.")],
    embedder: Embedder = None,
) -> None:
    """Name what the memory holds now, so that it can be read again later."""
    with open_memory(folder, embedder) as memory:
        say(f"{name} is snapshot {memory.snapshot(name)}")


@memory_app.command("undo", epilog="Example: agentkit memory undo runs/memory 7 --embedder hash")
def undo_write(
    folder: Folder,
    number: Annotated[int, typer.Argument(metavar="WRITE", help="Number of the write, as `stats` shows it.")],
    embedder: Embedder = None,
) -> None:
    """Undo a write: every memory it touched is again what it was before."""
    with open_memory(folder, embedder) as memory:
        say(f"write {memory.undo(number)} undoes write {number}; {len(memory)} memories")


@memory_app.command("forget", epilog="Example: agentkit memory forget runs/memory --source page --embedder hash")
def forget_memories(
    folder: Folder,
    id: Annotated[str | None, typer.Option("--id", help="This memory.")] = None,
    episode: Annotated[str | None, typer.Option("--episode", help="All made from this episode.")] = None,
    source: Annotated[str | None, typer.Option("--source", help="All that this source has written.")] = None,
    run: Annotated[str | None, typer.Option("--run", help="All that this run has written.")] = None,
    subject: Annotated[str | None, typer.Option("--subject", help="All facts about this subject.")] = None,
    embedder: Embedder = None,
) -> None:
    """Erase memories and all that was made from them, for good."""
    with errors.status("erasing"), open_memory(folder, embedder) as memory:
        receipt = memory.forget(id=id, episode_id=episode, source_name=source, run=run, subject=subject)
    say(f"erased {len(receipt.ids)} memories ({receipt.num_versions} versions)")
    for one in receipt.ids:
        say(one)


@memory_app.command("export", epilog="Example: agentkit memory export runs/memory memories.jsonl --embedder hash")
def export_memory(
    folder: Folder,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="JSON lines, with a manifest in front.")],
    embedder: Embedder = None,
) -> None:
    """Write all memories, as they stand, to a file."""
    with open_memory(folder, embedder) as memory:
        say(f"{memory.export(file)} memories in {file}")


@memory_app.command("import", epilog="Example: agentkit memory import runs/other memories.jsonl --embedder hash")
def import_memory(
    folder: Folder,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `agentkit memory export` has written.")],
    embedder: Embedder = None,
    trust: Annotated[int, typer.Option("--trust", min=0, max=3, help="Trust nothing in it more than this.")] = 1,
) -> None:
    """Take in the memories of a file that say something new, all or none."""
    from agentkit.memory.kinds import Trust

    with errors.status("importing"), open_memory(folder, embedder, make=True) as memory:
        new = memory.take_in(file, most_trust=Trust(trust))
        say(f"{new} new memories, {len(memory)} in {folder}")


def _moment(time_s: float) -> str:
    return datetime.fromtimestamp(time_s, UTC).strftime("%Y-%m-%d %H:%M:%S")
