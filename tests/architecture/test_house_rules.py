"""The rules of the house that a linter does not know."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import daemon

ROOT = Path(__file__).parents[2]
CORE = sorted((ROOT / "daemon" / "core").glob("*.py"))
DAEMON = sorted((ROOT / "daemon").rglob("*.py"))
PRODUCT = [*DAEMON, *sorted((ROOT / "handlers").rglob("*.py"))]
TESTS = sorted((ROOT / "tests").rglob("test_*.py"))

PURE = {
    "__future__", "abc", "base64", "bisect", "collections", "contextlib", "dataclasses", "datetime", "difflib", "enum",
    "fractions", "functools", "hashlib", "heapq", "itertools", "keyword", "math", "operator", "re", "struct", "textwrap", "types", "typing", "zlib",
    "cel_expr_python", "google", "numpy", "orjson", "scipy", "daemon",
}  # fmt: skip
"""Modules that neither read the world nor change it."""

IMPURE_CALLS = {"open", "print", "input", "exec", "eval"}
IMPURE_ATTRIBUTES = {"now", "utcnow", "today", "random", "default_rng", "getenv", "environ"}

BROAD_EXCEPTS = {
    "daemon/ledger.py: decided_or_why": "one bad event must not stop the others",
    "daemon/dispatcher.py: _outcome": "whatever a handler raises is an outcome",
    "daemon/writer.py: _group": "one bad batch costs that batch only",
    "daemon/app.py: _keep": "a source that breaks is started again",
}
"""The only places that may catch whatever comes."""


def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def _imports(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


@pytest.mark.parametrize("path", CORE, ids=_name)
def test_core_imports_only_pure_modules(path: Path) -> None:
    """The core imports nothing that reads a clock, a file, a socket or the environment, and nothing of the shell."""
    imported = set(_imports(_tree(path)))

    assert {name for name in imported if name.split(".")[0] not in PURE} == set()
    assert {name for name in imported if name.startswith("daemon") and not name.startswith("daemon.core")} == set()


@pytest.mark.parametrize("path", CORE, ids=_name)
def test_core_calls_nothing_impure(path: Path) -> None:
    """The core asks for no time, no randomness and no file, and rebinds no module state."""
    found: list[str] = []
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Global):
            found.append(f"{node.lineno}: global {', '.join(node.names)}")
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in IMPURE_CALLS:
            found.append(f"{node.lineno}: {node.func.id}()")
        if isinstance(node, ast.Attribute) and node.attr in IMPURE_ATTRIBUTES and _of_module(node):
            found.append(f"{node.lineno}: .{node.attr}")

    assert found == []


def _of_module(node: ast.Attribute) -> bool:
    """It hangs on a name like `datetime` or `np.random`, not on a value that happens to have a field of that name."""
    root: ast.expr = node.value
    while isinstance(root, ast.Attribute):
        root = root.value
    return isinstance(root, ast.Name) and root.id in {"datetime", "date", "time", "os", "np", "numpy", "random"}


def test_whatever_comes_is_caught_in_four_places_only() -> None:
    """`except Exception` stands where one failure must not stop the rest, and nowhere else."""
    found = set()
    for path in DAEMON:
        for function in ast.walk(_tree(path)):
            if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            for node in ast.walk(function):
                if isinstance(node, ast.ExceptHandler) and _broad(node) and not _raises_again(node):
                    found.add(f"{_name(path)}: {function.name}")

    assert found == set(BROAD_EXCEPTS)


def _broad(node: ast.ExceptHandler) -> bool:
    return node.type is None or (isinstance(node.type, ast.Name) and node.type.id in {"Exception", "BaseException"})


def _raises_again(node: ast.ExceptHandler) -> bool:
    return isinstance(node.body[-1], ast.Raise) and node.body[-1].exc is None


def test_the_environment_is_read_in_config_only() -> None:
    """Nobody but config.py reads environment variables (programs that run as jobs get theirs from the platform)."""
    found = []
    for path in DAEMON:
        if path.name == "config.py":
            continue
        nodes = list(ast.walk(_tree(path)))
        # `os.environ.update(…)` writes: it is how a forked process gets what it was given.
        written = {id(node.value) for node in nodes if isinstance(node, ast.Attribute) and node.attr == "update"}
        found += [
            f"{_name(path)}:{node.lineno}"
            for node in nodes
            if isinstance(node, ast.Attribute) and node.attr in {"environ", "getenv"} and id(node) not in written
        ]

    assert found == []


@pytest.mark.parametrize("path", TESTS, ids=_name)
def test_every_test_says_what_it_shows(path: Path) -> None:
    """Every test's docstring is its sentence of behaviour."""
    silent = [
        node.name
        for node in ast.walk(_tree(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
        and not ast.get_docstring(node)
    ]

    assert silent == []


def test_handlers_know_one_module_of_the_daemon() -> None:
    """Handlers import `daemon.handling` and nothing else of the daemon."""
    files = [path for path in PRODUCT if path.is_relative_to(ROOT / "handlers")]
    found = {
        f"{_name(path)}: {name}"
        for path in files
        if "templates" not in path.parts
        for name in _imports(_tree(path))
        if name.split(".")[0] == "daemon" and name != "daemon.handling"
    }

    assert found == set()


def test_no_file_is_too_long_to_hold_in_mind() -> None:
    """A file is one noun; none has more than 450 lines."""
    long = {_name(path): count for path in PRODUCT if (count := len(path.read_text().splitlines())) > 450}

    assert long == {}


def test_the_daemon_package_is_ours() -> None:
    """`python-daemon` on the index also installs a package of this name; the one that is imported is this repository's."""
    assert Path(daemon.__file__).parent == ROOT / "daemon"


def test_the_daemon_process_stays_light() -> None:
    """Importing the whole daemon brings in none of the heavy libraries that belong to workers and jobs."""
    code = (
        "import sys, daemon.app\n"
        "heavy = {'evidently', 'pandas', 'mlflow', 'sklearn', 'pyarrow', 'scipy'} & set(sys.modules)\n"
        "print(sorted(heavy))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"
