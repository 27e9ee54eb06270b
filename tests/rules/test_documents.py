"""YAML with positions and without surprises."""

from __future__ import annotations

from pathlib import Path

import pytest

from daemon.documents import load, parse_text


def test_words_and_times_stay_texts() -> None:
    """Only true and false are booleans; on, off, yes, no, times and dates are texts, numbers are decimal."""
    text = "on: yes\noff: no\nat: 12:30\nday: 2026-01-01\nn: 010\ni: 10\nf: 1e-3\nb: true\nnothing:\n"
    expected = {
        "on": "yes", "off": "no", "at": "12:30", "day": "2026-01-01", "n": "010", "i": 10, "f": 0.001, "b": True,
        "nothing": None,
    }  # fmt: skip

    assert parse_text(text, "f").data == expected
    assert parse_text(text, "f").mistakes == ()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: 1\nb: 2\na: 3\n", "f:3:1: a is written twice (first in line 1)"),
        ("a:\n  - {x: 1, x: 2}\n", "f:2:12: x is written twice (first in line 2)"),
        ("1: x\n", "f:1:1: a key must be a text; write '1' in quotes"),
        ("true: x\n", "f:1:1: a key must be a text; write 'true' in quotes"),
        ("[a]: x\n", "f:1:1: a key must be a text"),
        ("a: !!int 3\n", "f:1:4: tags such as !!int are not used here"),
        ("a: !python/object:os.system x\n", "f:1:4: tags such as !python/object:os.system are not used here"),
        ("a: &x {b: *x}\n", "f:1:4: an alias refers to what it stands in"),
        ("a: &x {b: 1}\nc: {<<: *x}\n", "f:2:5: merge keys (<<) are not used here"),
        ("a:\n\tb: 1\n", "f:2:1: tabs cannot indent YAML; use spaces"),
        ("a: b: c\n", "f:1:5: is not YAML: mapping values are not allowed in this context; a text with `: ` in it needs quotes"),
        ("a: @b\n", "f:1:4: is not YAML: found character that cannot start any token; a text that starts with this sign needs quotes"),
        ("a: 1\n---\nb: 1\n", "f:2:1: is not YAML: but found another document"),
        ("a: 123456789012345678901\n", "f:1:4: a number of at most 20 digits is expected"),
    ],
)  # fmt: skip
def test_what_yaml_would_let_pass_is_a_mistake(text: str, expected: str) -> None:
    """Duplicate keys, keys that are no texts, tags, loops of aliases and slips of syntax have their place."""
    assert [str(mistake) for mistake in parse_text(text, "f").mistakes] == [expected]


def test_all_mistakes_are_told_at_once() -> None:
    """One mistake does not hide the next."""
    document = parse_text("a: 1\na: 2\n5: x\nb: !x 1\n", "f")

    assert [mistake.line for mistake in document.mistakes] == [2, 3, 4]


def test_aliases_cannot_make_a_file_grow_without_end() -> None:
    """Nested aliases that stand for millions of values are one mistake, at once."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]

    mistakes = parse_text("\n".join(lines), "f").mistakes
    assert ["grows beyond 100000 values" in mistake.message for mistake in mistakes] == [True]


def test_positions_of_values_and_keys() -> None:
    """Every value and every key knows its line and column; what is not there takes its nearest parent's."""
    document = parse_text("a:\n  - name: x\n    when: 'y'\n", "f")

    assert document.position(("a", 0, "when")) == (3, 11)
    assert document.key_position(("a", 0, "when")) == (3, 5)
    assert document.position(("a", 0, "missing")) == (2, 5)


@pytest.mark.parametrize(
    ("text", "where", "place"),
    [
        ("when: abc def\n", (1, 5), (1, 11)),
        ("when: 'abc def'\n", (1, 5), (1, 12)),
        ("when: |\n  abc\n  def\n", (2, 2), (3, 4)),
    ],
)
def test_places_inside_a_text(text: str, where: tuple[int, int], place: tuple[int, int]) -> None:
    """A line and column within an expression become those in the file, for plain, quoted and block texts."""
    mistake = parse_text(text, "f").inside(("when",), *where, "wrong")

    assert (mistake.line, mistake.column) == place


def test_an_entry_as_written_leaves_out_the_next_ones_comment() -> None:
    """The text of an entry has its own comments, not its indentation, and not the comment before the next entry."""
    text = "rules:\n  - name: a   # mine\n    on: x\n\n  # about b\n  - name: b\n"

    assert parse_text(text, "f").text(("rules", 0)) == "name: a   # mine\non: x"


def test_files_that_cannot_be_read_are_mistakes(tmp_path: Path) -> None:
    """A missing file, one that is not UTF-8 and one that is far too large say so."""
    (tmp_path / "latin.yaml").write_bytes(b"a: \xe9\n")
    (tmp_path / "large.yaml").write_bytes(b"#" * 1_000_001)

    said = [load(tmp_path / name, name).mistakes[0].message for name in ("none.yaml", "latin.yaml", "large.yaml")]
    assert said == [
        "cannot be read: No such file or directory",
        "is not UTF-8",
        "is 1000001 bytes; at most 1000000 are read",
    ]


def test_an_empty_file_is_nothing() -> None:
    """No content and no mistake."""
    document = parse_text("# only a comment\n", "f")

    assert (document.data, document.mistakes) == (None, ())
