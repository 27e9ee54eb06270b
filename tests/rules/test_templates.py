"""Approved templates: read with all their mistakes."""

from __future__ import annotations

from pathlib import Path

import pytest

from daemon.core.errors import ConfigError
from daemon.core.programs import Parameter, ParameterType
from daemon.templates import fits, load_templates


def test_a_template_declares_a_program_and_its_parameters(tmp_path: Path) -> None:
    """Name, verb, program, parameters and limits, the limits with defaults."""
    (tmp_path / "train.yaml").write_text(
        "doc: Trains.\nverb: retrain\nargv: ['{python}', t.py]\n"
        "parameters:\n  rows: {type: int, default: 5, doc: how many}\nmemory_mb: 100\n"
    )
    template = load_templates(tmp_path)["train"]

    assert (template.name, template.verb, template.argv) == ("train", "retrain", ("{python}", "t.py"))
    assert template.parameters == {"rows": Parameter("rows", "int", required=False, default=5, doc="how many")}
    assert (template.memory_mb, template.seconds, template.env) == (100, 3600.0, {})


def test_all_mistakes_of_all_templates_are_told(tmp_path: Path) -> None:
    """Each with its file and place."""
    (tmp_path / "a.yaml").write_text("doc: d\nverb: command\nargv: []\nparameter: {}\n")
    (tmp_path / "b.yaml").write_text(
        "doc: d\nverb: command\nargv: [x]\nparameters:\n"
        "  n: {type: int, default: many, doc: d}\n  m: {type: int, required: true, default: 1, doc: d}\n"
    )
    with pytest.raises(ConfigError) as told:
        load_templates(tmp_path)

    assert [str(mistake).removeprefix(f"{tmp_path}/") for mistake in told.value.mistakes] == [
        "a.yaml:3:7: argv: Tuple should have at least 1 item after validation, not 0",
        "a.yaml:4:1: unknown key parameter; did you mean parameters?",
        "b.yaml:5:27: the default of n is no int",
        "b.yaml:6:43: parameter m is required, so its default is never used",
    ]


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        ("string", "x", 1),
        ("int", 3, 3.5),
        ("int", 0, True),
        ("number", 3, "3"),
        ("number", 0.5, False),
        ("bool", True, 1),
        ("time", "2026-01-01T00:00:00Z", "noon"),
        ("duration", "1h30m", "soon"),
        ("duration", "1h", 60),
    ],
)
def test_values_fit_the_types_of_parameters(kind: ParameterType, good: object, bad: object) -> None:
    """A value as written in YAML is of a parameter's type or it is not."""
    assert (fits(kind, good), fits(kind, bad)) == (True, False)
