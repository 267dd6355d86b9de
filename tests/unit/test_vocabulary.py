"""Vocabulary rules: names of modules and functions, and entries of docstrings.

docs/glossary.md holds the project's words. These rules reject what can be decided by a machine.
"""

import ast
import re
from pathlib import Path

import pytest

from tests.support.source_tree import ROOT, assert_none, at_least, docstrings, files, relative, tree

# Names that say neither what a module holds nor what the field calls it.
FORBIDDEN_MODULES = {
    "arm",
    "board",
    "common",
    "desk",
    "examiner",
    "farewell",
    "found",
    "helpers",
    "manager",
    "misc",
    "openings",
    "page",
    "pages",
    "parts",
    "pick",
    "replies",
    "row",
    "said",
    "seen",
    "subject",
    "talking",
    "utils",
    "watching",
}
# In services `answers` would mean responses; scores.answers compares answers to questions.
FORBIDDEN_IN_SERVICES = {"answers"}
FORBIDDEN_NAMES = {
    "asked",
    "checked",
    "farewell",
    "found",
    "given",
    "heed",
    "held",
    "leaving",
    "let_go",
    "mistakes",
    "said",
    "saw",
    "seen",
    "strangers",
    "talking",
    "told",
    "watching",
    "whole",
}
_GENITIVE = r"(?:Of|Whose|Theirs?|Its|Such as|As of)\b"
ENTRY = re.compile(r"^\s*(?P<name>\*{0,2}[A-Za-z_][\w.]*(?: \([^)]*\))?): (?P<text>.+)$")
GENITIVE = re.compile(rf"^{_GENITIVE}")
ONE_WORD = re.compile(r"^[\w-]+\.$")
SECTIONS = re.compile(r"^\s*(?:Args|Attributes|Raises|Returns|Yields):\s*$")


def entries(docstring: str) -> list[tuple[str, str]]:
    """Return name and first line of each entry of a docstring's sections.

    The first line of Returns and Yields is an entry without a name.
    """
    collected = []
    section, indent = "", 0
    for line in docstring.splitlines():
        if SECTIONS.match(line):
            section, indent = line.strip().rstrip(":"), len(line) - len(line.lstrip())
            continue
        if not line.strip():
            continue
        if section and len(line) - len(line.lstrip()) <= indent and line == line.lstrip():
            section = ""
        if section in {"Returns", "Yields"}:
            collected.append((section, line.strip()))
            section = ""
        elif section and (match := ENTRY.match(line)):
            collected.append((match["name"], match["text"].strip()))
    return collected


def fault_of(text: str) -> str | None:
    """Return what is wrong with an entry, None if nothing is."""
    if GENITIVE.match(text):
        return "begins with a genitive: say what the value is"
    return "is one word: say what the value is, its unit or range" if ONE_WORD.match(text) else None


@pytest.mark.parametrize(
    ("docstring", "faults"),
    [
        ("Args:\n    seed: Of the resampling.", 1),
        ("Args:\n    mission: Whose.\n    wait_s: Longest wait, in seconds.", 1),
        ("Attributes:\n    namespace: Theirs.\n    size: Its number of rows.", 2),
        ("Returns:\n    Their sum.", 1),
        ("Raises:\n    ValueError: Its schema is broken.", 1),
        ("Args:\n    kind: How.", 1),
        ("Args:\n    seed: Seed of the resampling.\n\nOf this nothing is left.", 0),
    ],
)
def test_rule_detects_genitives_and_riddles(docstring: str, faults: int) -> None:
    """The rule below sees each kind of entry that it forbids."""
    assert sum(fault_of(text) is not None for _, text in entries(docstring)) == faults


def test_docstring_entries_say_what_a_value_is() -> None:
    """No entry begins with Of, Whose, Their, Theirs, Its, or is one word."""
    seen, faults = 0, []
    for path in files(".py", least=300):
        for line, docstring in docstrings(path):
            for name, text in entries(docstring):
                seen += 1
                if fault := fault_of(text):
                    faults.append(f"{relative(path)}:{line}: {name}: {text!r} {fault}")
    at_least(800, range(seen))

    assert_none(faults)


def test_docstrings_of_attributes_are_no_fragments() -> None:
    """Outside tests no docstring begins with Of, Whose, Their, Theirs or Its."""
    texts = [
        (f"{relative(path)}:{line}", docstring)
        for path in files(".py")
        if not relative(path).startswith("tests/")
        for line, docstring in docstrings(path)
    ]
    at_least(1500, texts)

    assert_none(f"{place}: {text[:60]}" for place, text in texts if GENITIVE.match(text))


def test_modules_are_named_for_what_they_hold() -> None:
    """No module, template or kernel has a name that hides what it holds."""
    paths = files(".py", ".yaml", ".sh", ".cpp", ".h", ".hpp", least=400)
    refused = []
    for path in paths:
        stem = path.stem.removeprefix("test_").lstrip("_")
        forbidden = FORBIDDEN_MODULES | (
            FORBIDDEN_IN_SERVICES if "services" in path.relative_to(ROOT).parts else set()
        )
        if stem in forbidden:
            refused.append(relative(path))

    assert_none(refused)


def test_functions_and_classes_have_the_fields_names() -> None:
    """No function, method or class is named by a word that says nothing about it."""
    names = [(path, name, line) for path in files(".py") for name, line in _definitions(path)]
    at_least(3000, names)
    refused = [
        f"{relative(path)}:{line}: {name}"
        for path, name, line in names
        if name.strip("_").lower() in FORBIDDEN_NAMES
    ]

    assert_none(refused)


def _definitions(path: Path) -> list[tuple[str, int]]:
    kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    return [(node.name, node.lineno) for node in ast.walk(tree(path)) if isinstance(node, kinds)]
