"""Displaced items: near-duplicates of items in an earlier split, which no later split may use.

``lists/displaced.json`` is written by ``python -m bem_fleet.data splits`` (``leak_audit``), and the
loaders of every set leave its items out. Training data never changes by it: an item is displaced
from dev or held_out when its cluster reaches an earlier split.
"""

import json
from functools import cache
from pathlib import Path

DISPLACED_FILE = Path(__file__).with_name("lists") / "displaced.json"


@cache
def displaced_keys(name: str) -> frozenset[str]:
    """Return the keys of a set's displaced items.

    Args:
        name: Name of the set, as in ``leak_audit.split_items``.
    """
    if not DISPLACED_FILE.exists():  # before the first run of the splitter
        return frozenset()
    listed: dict[str, list[str]] = json.loads(DISPLACED_FILE.read_text(encoding="utf-8"))
    return frozenset(listed.get(name, ()))
