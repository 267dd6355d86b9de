"""Source tree of the project: hand-written files, their syntax trees, docstrings and unit tests.

The house tests walk the tree through this module. It reads the file system and not the index of
git, so that a copy of the tree gives the same answers.

As a command, ``python -m tests.support.source_tree`` rewrites ``tests/covered_by.yaml``: it drops
modules that are gone or that have a unit test of their name, and prints those that lack both.
"""

import ast
import fnmatch
import os
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import TypeVar

import yaml

ROOT = Path(__file__).resolve().parents[2]
COVERED_BY = ROOT / "tests" / "covered_by.yaml"
GENERATED = ("libs/bemfleet", "libs/inference")
# Where source lies, and where its unit tests lie below tests/unit.
SOURCES = {
    "libs/": "",
    "services/": "services/",
    "tools/": "tools/",
    "docker/": "docker/",
    "k8s/": "k8s/",
    "charts/files/": "charts/",
}
Node = TypeVar("Node", bound=ast.AST)
T = TypeVar("T")


def at_least(count: int, items: Iterable[T]) -> list[T]:
    """Return the items as a list; fail if there are fewer than expected.

    A rule that walks the tree would be vacuous if a renamed folder left it nothing to check.

    Args:
        count: Fewest items that the rule has to see.
        items: What the rule checks.
    """
    listed = list(items)
    assert len(listed) >= count, (
        f"the rule saw {len(listed)} items and expects {count}: is it stale?"
    )
    return listed


def assert_none(violations: Iterable[str]) -> None:
    """Fail if there is a violation, and print each on its own line."""
    listed = list(violations)
    assert not listed, "\n".join([f"{len(listed)} violations:", *listed])


@cache
def tracked() -> tuple[Path, ...]:
    """Return the hand-written files, without what .gitignore names and without links."""
    lines = (ROOT / ".gitignore").read_text().split()
    ignored = [".git", *(line.rstrip("/") for line in lines)]
    paths = []
    for folder, folders, names in os.walk(ROOT):
        here = Path(folder)
        folders[:] = [
            name
            for name in folders
            if not any(fnmatch.fnmatch(name, pattern) for pattern in ignored)
            and str((here / name).relative_to(ROOT)) not in GENERATED
            and not (here / name).is_symlink()
        ]
        paths += [here / name for name in names if name not in ignored]
    return tuple(sorted(path for path in paths if path.is_file() and not path.is_symlink()))


def files(*suffixes: str, least: int = 1) -> list[Path]:
    """Return the hand-written files with one of the suffixes; there must be ``least`` of them."""
    return at_least(least, (path for path in tracked() if path.suffix in suffixes))


def relative(path: Path) -> str:
    """Return a path as the repository knows it."""
    return path.relative_to(ROOT).as_posix()


@cache
def tree(path: Path) -> ast.Module:
    """Return the syntax tree of a module."""
    return ast.parse(path.read_text())


def nodes(path: Path, kind: type[Node]) -> Iterator[Node]:
    """Yield the nodes of a kind in a module."""
    return (node for node in ast.walk(tree(path)) if isinstance(node, kind))


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Yield the functions and methods of a module."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Return the number of lines of a function without its docstring."""
    lines = (function.end_lineno or function.lineno) - function.lineno + 1
    first = function.body[0]
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
        lines -= (first.end_lineno or first.lineno) - first.lineno + 1
    return lines


def docstrings(path: Path) -> Iterator[tuple[int, str]]:
    """Yield line and text of every docstring of a module, also of those below attributes."""
    for node in nodes(path, ast.Expr):
        if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.lineno, node.value.value


def modules() -> list[Path]:
    """Return the source modules that have a unit test by their name or a covering suite.

    ``__main__`` and packages that define nothing have neither.
    """
    sources = [
        path
        for path in files(".py")
        if relative(path).startswith(tuple(SOURCES)) and path.name != "__main__.py"
    ]
    return [path for path in sources if path.name != "__init__.py" or _defines(path)]


def _defines(path: Path) -> bool:
    kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    return any(isinstance(node, kinds) for node in tree(path).body)


def unit_test_of(module: Path) -> Path:
    """Return where the unit test of a module lies; a package's is named for its folder."""
    name = relative(module)
    prefix = next(prefix for prefix in SOURCES if name.startswith(prefix))
    inner = Path(SOURCES[prefix] + name.removeprefix(prefix))
    if inner.name == "__init__.py":
        inner = inner.parent.with_suffix(".py")
    return ROOT / "tests" / "unit" / inner.parent / f"test_{inner.name.lstrip('_')}"


def covered_by() -> dict[str, str]:
    """Return the test module or folder that covers a source module, by the module's path."""
    entries: dict[str, str] = yaml.safe_load(COVERED_BY.read_text()) or {}
    return entries


def uncovered() -> list[str]:
    """Return the modules that have neither a unit test by their name nor a covering suite."""
    listed = covered_by()
    return [
        relative(module)
        for module in modules()
        if not unit_test_of(module).is_file() and relative(module) not in listed
    ]


def stale_entries() -> list[str]:
    """Return entries whose module is gone or has a unit test, or whose suite is gone."""
    known = {relative(module): module for module in modules()}
    return [
        name
        for name, suite in covered_by().items()
        if name not in known or unit_test_of(known[name]).is_file() or not (ROOT / suite).exists()
    ]


def _rewrite() -> None:
    header = COVERED_BY.read_text().partition("---\n")[0]
    stale = set(stale_entries())
    kept = {name: suite for name, suite in sorted(covered_by().items()) if name not in stale}
    body = "".join(f"{name}: {suite}\n" for name, suite in kept.items())
    COVERED_BY.write_text(f"{header}---\n{body}")
    sys.stdout.writelines(f"{name}\n" for name in uncovered())


if __name__ == "__main__":
    _rewrite()
