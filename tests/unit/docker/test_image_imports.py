"""Packages that the code of an image imports, against the lock that the image installs."""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
from collections.abc import Iterator
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from bem_fleet.checkout import ROOT
from packaging.utils import canonicalize_name

from docker.images import Image, images

OWN = ("bem", "bem_fleet", "bemfleet", "fleet", "inference")
SERVICES = [image for image in images() if image.name != "redis"]


def loaded_at_import(body: list[ast.stmt]) -> Iterator[ast.Import | ast.ImportFrom]:
    """Yield the imports that run when a module is imported and that it cannot do without."""
    for node in body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif isinstance(node, ast.If) and "TYPE_CHECKING" not in ast.unparse(node.test):
            yield from loaded_at_import([*node.body, *node.orelse])
        elif isinstance(node, ast.With | ast.ClassDef):
            yield from loaded_at_import(node.body)


@cache
def imports(module: str) -> frozenset[str]:
    """Return the full names that a module of ours imports when it is imported itself."""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        return frozenset()
    names = set()
    for node in loaded_at_import(ast.parse(Path(spec.origin).read_text()).body):
        if isinstance(node, ast.Import):
            names |= {one.name for one in node.names}
        elif node.module:
            names.add(node.module)
            names |= {f"{node.module}.{one.name}" for one in node.names}
    parents = module.split(".")
    return frozenset(names | {".".join(parents[:n]) for n in range(1, len(parents))})


def is_module(name: str) -> bool:
    """Return whether a dotted name is a module of ours and not a name within one."""
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def foreign_packages(start: str) -> set[str]:
    """Return the import names of other people's packages that a module reaches."""
    seen, waiting, foreign = set(), [start], set()
    while waiting:
        module = waiting.pop()
        if module in seen:
            continue
        seen.add(module)
        for name in imports(module):
            top = name.partition(".")[0]
            if top in OWN:
                waiting += [name] if is_module(name) else []
            elif top not in sys.stdlib_module_names:
                foreign.add(top)
    return foreign


def locked(lock: str) -> set[str]:
    """Return the distributions of a lock."""
    text = (ROOT / "requirements" / f"{lock}.lock").read_text()
    return {
        canonicalize_name(name) for name in re.findall(r"^([A-Za-z0-9._-]+)==", text, re.MULTILINE)
    }


@pytest.mark.parametrize("image", SERVICES, ids=[image.name for image in SERVICES])
def test_lock_has_what_the_service_imports(image: Image) -> None:
    """The environment of the tests has every package, so a missing one shows in a pod only."""
    of_package = packages_distributions()
    installed = locked(image.lock)
    if image.name in {"safety", "router"}:  # weights that come as packages, outside the resolution
        installed |= locked("base-model") | locked("safety-embedding") | locked("no-deps")
    reached = foreign_packages(f"bem_fleet.services.{image.name}.__main__")
    missing = {
        package
        for package in reached
        if not {canonicalize_name(one) for one in of_package.get(package, [package])} & installed
    }

    assert len(reached) >= 5
    assert not missing
