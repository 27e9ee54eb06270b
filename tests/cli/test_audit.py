"""The audit on the command line: whole chains verify, and every way of tampering is found where it was done."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import orjson
import pytest

from daemon.commands.exits import Exit
from daemon.core.audit import GENESIS, hash_of
from daemon.core.calls import Done
from tests.cli.conftest import Household, nightly


@pytest.fixture
def audited(household: Household) -> Household:
    """A home whose chain has some records, with a head exported in the middle."""
    household.submit(nightly())
    household.driftd("approve", household.run_id())
    household.answer("notify", Done())
    household.submit(nightly(1))
    return household


def change(household: Household, *statements: str) -> None:
    """Tamper with the store's file."""
    connection = sqlite3.connect(household.config.store.path)
    with connection:
        for statement in statements:
            connection.execute(statement)
    connection.close()


def broken(household: Household, *options: str) -> tuple[int, str]:
    """Where and why the chain is broken."""
    told = household.json("audit", "verify", *options, exit_code=Exit.FOUND)
    assert told["ok"] is False
    return told["seq"], told["why"]


def test_a_whole_chain_verifies_with_its_exported_heads(audited: Household) -> None:
    """The shape of `driftd audit verify --json`."""
    records = audited.json("audit", "show", "--limit", "1000")
    (head,) = audited.json("audit", "heads")

    assert audited.json("audit", "verify") == {
        "ok": True, "records": len(records), "head": records[0]["hash"], "heads_checked": 1, "unreadable_heads": [],
    }  # fmt: skip
    assert head["hash"] == next(record["hash"] for record in records if record["seq"] == head["seq"])
    assert audited.driftd("audit", "verify", "--head", head["hash"]).exit_code == Exit.DONE


def test_an_edited_body_is_found_where_it_was_edited(audited: Household) -> None:
    """One changed character breaks the chain at that record."""
    change(audited, "UPDATE audit SET body = replace(body, 'schedule', 'scheduIe') WHERE seq = 2")

    seq, why = broken(audited)

    assert seq == 2
    assert "body was changed" in why


def test_a_removed_record_is_found(audited: Household) -> None:
    """The numbers have no gaps."""
    change(audited, "DELETE FROM audit WHERE seq = 3")

    assert broken(audited)[0] == 4


def test_two_records_that_changed_places_are_found(audited: Household) -> None:
    """The order is part of the chain."""
    change(
        audited, "UPDATE audit SET seq = 1000 WHERE seq = 2", "UPDATE audit SET seq = 2 WHERE seq = 3",
        "UPDATE audit SET seq = 3 WHERE seq = 1000",
    )  # fmt: skip

    assert broken(audited)[0] == 2


def test_a_cut_tail_is_found_by_an_exported_head(audited: Household) -> None:
    """What is left verifies in itself, but no longer reaches the head."""
    (head,) = audited.json("audit", "heads")
    change(audited, f"DELETE FROM audit WHERE seq >= {head['seq']}")

    assert "tail was cut off" in broken(audited)[1]


def test_a_head_that_was_kept_elsewhere_finds_a_cut_tail(audited: Household, tmp_path: Path) -> None:
    """`--head` needs no file beside the store."""
    (head,) = audited.json("audit", "heads")
    (audited.home / "audit" / "heads.jsonl").unlink()
    change(audited, f"DELETE FROM audit WHERE seq >= {head['seq']}")

    assert audited.driftd("audit", "verify").exit_code == Exit.DONE
    assert "tail was cut off" in broken(audited, "--head", head["hash"])[1]


def test_a_chain_that_was_rewritten_as_a_whole_is_found_by_an_exported_head(audited: Household) -> None:
    """Somebody with the code recomputed every hash: the chain holds in itself, the head does not."""
    rows = sqlite3.connect(audited.config.store.path).execute("SELECT seq, body FROM audit ORDER BY seq").fetchall()
    previous, statements = GENESIS, []
    for seq, body in rows:
        text = body.replace("nightly-0", "nightly-9")
        previous = hash_of(text.encode(), previous)
        statements.append(f"UPDATE audit SET body = '{text}', hash = '{previous}' WHERE seq = {seq}")
    (head,) = audited.json("audit", "heads")
    change(audited, *statements)

    seq, why = broken(audited)

    assert seq == head["seq"]
    assert "rewritten" in why


def test_a_record_filed_under_another_run_is_found(audited: Household) -> None:
    """`audit show --run` cannot be made to hide a record."""
    change(
        audited,
        "UPDATE audit SET ref = '' WHERE kind = 'firing' AND seq = (SELECT min(seq) FROM audit WHERE kind = 'firing')",
    )

    assert "filed under another" in broken(audited)[1]


def test_a_line_of_the_heads_that_a_crash_cut_off_is_told(audited: Household) -> None:
    """A half-written line is no proof of anything, and is not hidden."""
    with (audited.home / "audit" / "heads.jsonl").open("ab") as file:
        file.write(b'{"at": "2026-01')

    assert audited.json("audit", "verify")["unreadable_heads"] == [2]


def test_the_export_can_be_verified_by_anybody(audited: Household, tmp_path: Path) -> None:
    """Each line's hash is SHA-256 of the hash before it and the body, as text."""
    told = audited.json("audit", "export", "--to", str(tmp_path / "audit.jsonl"))
    lines = [orjson.loads(line) for line in (tmp_path / "audit.jsonl").read_bytes().splitlines()]
    tail = [orjson.loads(line) for line in audited.driftd("audit", "export", "--after", "3").stdout.splitlines()]

    assert told["records"] == len(lines)
    assert [GENESIS, *(line["hash"] for line in lines[:-1])] == [line["previous"] for line in lines]
    assert [hash_of(line["body"].encode(), line["previous"]) for line in lines] == [line["hash"] for line in lines]
    assert tail == lines[3:]


def test_records_are_shown_by_kind_and_by_run(audited: Household) -> None:
    """The shape of `driftd audit show --json`."""
    runs = audited.json("runs")
    (record,) = audited.json("audit", "show", "--run", runs[1]["id"][:8], "--kind", "firing")

    assert (record["kind"], record["ref"], record["body"]["rule"]) == ("firing", runs[1]["id"], "careful")
    assert {"firing"} == {one["kind"] for one in audited.json("audit", "show", "--kind", "firing")}
