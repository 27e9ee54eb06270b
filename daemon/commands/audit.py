"""`driftd audit`: the record of everything that was decided and done, and the proof that it is whole."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import orjson
import typer

from daemon import reading
from daemon.auditing import exported_heads, verify_store
from daemon.commands.exits import Exit
from daemon.commands.printing import AsJson, Limit, brief, print_error, print_json, print_line, print_table, when
from daemon.commands.workplace import Workplace, workplace
from daemon.core.audit import GENESIS
from daemon.core.errors import AuditBroken, NotFound
from daemon.reading import StoredRecord
from daemon.store.rows import moment

app = typer.Typer(
    add_completion=False, no_args_is_help=True, rich_markup_mode=None,
    help="The record of everything that was decided and done, and the proof that it is whole.",
)  # fmt: skip


@app.command()
def show(
    context: typer.Context,
    kind: Annotated[
        str, typer.Option("--kind", help="Only these: event, firing, run, call, outcome, quarantine, …")
    ] = "",
    run: Annotated[str, typer.Option("--run", help="All records about this run (its id, or how it begins).")] = "",
    limit: Limit = 30,
    as_json: AsJson = False,
) -> None:
    """The newest audit records, or all about one run."""
    with workplace(context).reading() as session:
        if run:
            found = reading.audit_of(session, reading.run(session, run).id)
            found = [record for record in found if not kind or record.kind == kind][::-1]
        else:
            found = reading.audit(session, kind, limit)
    if as_json:
        print_json([_json(record) for record in found])
        return
    print_table(
        ("seq", "recorded", "kind", "run", "body"),
        ((r.seq, when(moment(r.content["now"])), r.kind, r.ref[:8], _body(r)) for r in found),
        "No such records.",
    )


@app.command()
def verify(
    context: typer.Context,
    head: Annotated[str, typer.Option("--head", help="A head's hash that was kept elsewhere: it must be there.")] = "",
    heads: Annotated[
        Path | None, typer.Option("--heads", help="File of exported heads; default: the one in home.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check every record of the chain, and that it goes through every exported head. Exit code 1 when it is broken."""
    place = workplace(context)
    if heads is not None and not heads.is_file():
        raise NotFound(f"there is no file {heads}")
    exported, unreadable = exported_heads(heads or _heads(place))
    try:
        with place.store() as store:
            found = verify_store(store, exported, head)
    except AuditBroken as error:
        if as_json:
            print_json({"ok": False, "seq": error.seq, "why": error.why})
        print_error(f"driftd: the audit chain is broken: {error}")
        raise typer.Exit(Exit.FOUND) from error
    if as_json:
        print_json({
            "ok": True, "records": found.records, "head": found.head, "heads_checked": found.heads,
            "unreadable_heads": list(unreadable),
        })  # fmt: skip
        return
    print_line(f"{found.records} records, each follows the one before; {found.heads} exported heads are on the chain.")
    print_line(f"head {found.head}")
    if unreadable:
        print_line(f"Lines {', '.join(map(str, unreadable))} of the file of heads cannot be read.")


@app.command()
def export(
    context: typer.Context,
    to: Annotated[Path | None, typer.Option("--to", help="File to write; default: standard output.")] = None,
    after: Annotated[int, typer.Option("--after", min=0, help="Only records after this one.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Every record as a JSON line, oldest first: `seq`, `previous`, `hash`, and `body` as the text that was hashed."""
    place = workplace(context)
    count = 0
    with place.store() as store, _output(to) as file:
        previous = GENESIS
        for record in reading.audit_records(store, max(after - 1, 0)):
            if record.seq > after:
                line = {"seq": record.seq, "previous": previous, "hash": record.hash, "body": record.body.decode()}
                file.write(orjson.dumps(line) + b"\n")
                count += 1
            previous = record.hash
    if to is not None and as_json:
        print_json({"records": count, "file": str(to)})
    elif to is not None:
        print_line(f"{count} records are in {to}.")


@app.command("heads")
def list_heads(context: typer.Context, as_json: AsJson = False) -> None:
    """The heads that were exported as runs ended, oldest first. Keep copies elsewhere: they prove the rest."""
    exported, _ = exported_heads(_heads(workplace(context)))
    if as_json:
        print_json([{"seq": h.seq, "hash": h.hash, "at": h.at, "runs": list(h.runs)} for h in exported])
        return
    print_table(
        ("seq", "recorded", "hash", "runs"),
        ((h.seq, h.at[:19].replace("T", " "), h.hash, " ".join(run[:8] for run in h.runs)) for h in exported),
        "No run has ended yet.",
    )


def _heads(place: Workplace) -> Path:
    return place.home / "audit" / "heads.jsonl"


def _json(record: StoredRecord) -> dict[str, Any]:
    return {"seq": record.seq, "kind": record.kind, "ref": record.ref, "hash": record.hash, "body": record.content}


def _body(record: StoredRecord) -> str:
    return brief({name: value for name, value in record.content.items() if name not in {"kind", "ref", "now"}}, 110)


@contextmanager
def _output(path: Path | None) -> Iterator[BinaryIO]:
    if path is None:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    with path.open("wb") as file:
        yield file
