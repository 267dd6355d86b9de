"""Reader of literals in Python source files, without importing or running the file."""

import ast
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from bem.errors import DataFormatError


def read_literals(path: Path, name: str) -> list[Any]:
    """Return every literal that a Python file assigns to ``name``.

    Names inside f-strings become ``<NAME>``; strings that are joined by ``+`` are skipped.

    Raises:
        DataFormatError: The file assigns no literal to ``name``.
    """
    literals = list(_assigned_literals(ast.parse(path.read_text(encoding="utf-8")), name))
    if not literals:
        raise DataFormatError(f"{path.name}: no literal is assigned to {name}")
    return literals


def read_class_literals(path: Path, name: str) -> dict[str, Any]:
    """Return the literal that each class of a Python file assigns to ``name``, by class.

    Raises:
        DataFormatError: No class assigns a literal to ``name``.
    """
    by_class: dict[str, Any] = {}
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef):
            for value in _assigned_literals(node, name):
                by_class[node.name] = value
    if not by_class:
        raise DataFormatError(f"{path.name}: no class assigns a literal to {name}")
    return by_class


def _assigned_literals(tree: ast.AST, name: str) -> Iterator[Any]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and any(
            isinstance(target, ast.Name) and target.id == name for target in node.targets
        ):
            with suppress(ValueError):  # computed values are not literals
                yield _literal_value(node.value)


def _literal_value(node: ast.expr) -> Any:
    if isinstance(node, ast.JoinedStr):
        return "".join(
            str(part.value)
            if isinstance(part, ast.Constant)
            else f"<{ast.unparse(part.value) if isinstance(part, ast.FormattedValue) else ''}>"
            for part in node.values
        )
    if isinstance(node, ast.List | ast.Tuple):
        return [
            _literal_value(element) for element in node.elts if not isinstance(element, ast.BinOp)
        ]
    if isinstance(node, ast.Dict):
        keys = [_literal_value(key) for key in node.keys if key is not None]
        return dict(zip(keys, map(_literal_value, node.values), strict=True))
    return ast.literal_eval(node)
