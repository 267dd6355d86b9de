"""Splitter and leak audit: no near-duplicate of a text is in two splits of one scope.

``find_displaced`` clusters the items of a scope by their near-duplicate keys, gives each cluster to
the earliest split that it reaches (train before dev before held_out), and names the members in
later splits: they are displaced. ``audit`` then compares every pair of an earlier and a later part,
with and without the displaced items; any text in common is a leak.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bem_fleet.data.displaced import displaced_keys
from bem_fleet.data.near_duplicates import (
    Keys,
    items_with_keys,
    merge_keys,
    near_duplicate_clusters,
)
from bem_fleet.data.split_items import SCOPES, SPLIT_ORDER, SplitItem, split_items

COMMAND = "python -m bem_fleet.data"


@dataclass(frozen=True)
class PartAudit:
    """Audit of one later part: the dev or held-out items of one set.

    Attributes:
        scope: Scope of the set.
        part: Set and split, ``red-team, held_out``.
        items: Number of items before near-duplicates are left out.
        kept: Number of items that the loaders hand out.
        clusters: Number of clusters (families, origins, passages) among the items kept.
        shared: Number of items that share a text with each earlier part, before.
        leaks: Number of items kept that share a text with each earlier part; all 0 if it is clean.
    """

    scope: str
    part: str
    items: int
    kept: int
    clusters: int
    shared: Mapping[str, int]
    leaks: Mapping[str, int]


def find_displaced(items: Sequence[SplitItem]) -> dict[str, list[str]]:
    """Return the keys of the displaced items by set, rising.

    Args:
        items: Items of one scope.
    """
    clusters = near_duplicate_clusters([item.keys for item in items])
    ranks = np.array([SPLIT_ORDER.index(item.split) for item in items])
    owners = np.full(int(clusters.max(initial=-1)) + 1, len(SPLIT_ORDER))
    np.minimum.at(owners, clusters, ranks)
    displaced: dict[str, set[str]] = defaultdict(set)
    for item, cluster, rank in zip(items, clusters, ranks, strict=True):
        if rank > owners[cluster]:
            displaced[item.set_name].add(item.key)
    return {name: sorted(keys) for name, keys in sorted(displaced.items())}


def displaced_document() -> str:
    """Return the content of ``lists/displaced.json`` for the sets as they are."""
    listed: dict[str, list[str]] = {}
    for scope in SCOPES:
        listed |= find_displaced(split_items(scope))
    return json.dumps(listed, indent=0, sort_keys=True) + "\n"


def audit_all() -> list[PartAudit]:
    """Audit every scope with the displaced items of the committed list."""
    return [
        row
        for scope in SCOPES
        for row in audit(
            scope,
            split_items(scope),
            {item.set_name: displaced_keys(item.set_name) for item in split_items(scope)},
        )
    ]


def audit(
    scope: str, items: Sequence[SplitItem], displaced: Mapping[str, Iterable[str]]
) -> list[PartAudit]:
    """Return the audit of each dev and held-out part of a scope.

    Args:
        scope: Name of the scope, for the table.
        items: Items of the scope.
        displaced: Keys of the items that the loaders leave out, by set.
    """
    left_out = {name: frozenset(keys) for name, keys in displaced.items()}
    parts: dict[tuple[str, str], list[SplitItem]] = defaultdict(list)
    for item in items:
        parts[item.set_name, item.split].append(item)
    kept = {
        part: [one for one in own if one.key not in left_out.get(one.set_name, frozenset())]
        for part, own in parts.items()
    }
    merged = {part: merge_keys(item.keys for item in own) for part, own in parts.items()}
    # Training reads its items whether they are near a later one or not; dev reads what is kept.
    merged_kept = {part: merge_keys(item.keys for item in own) for part, own in kept.items()}
    return [
        PartAudit(
            scope=scope,
            part=_label(part),
            items=len(own),
            kept=len(kept[part]),
            clusters=len({item.cluster for item in kept[part]}),
            shared=_shared(part, own, merged),
            leaks=_shared(part, kept[part], merged_kept),
        )
        for part, own in sorted(parts.items())
        if part[1] != SPLIT_ORDER[0]
    ]


def _shared(
    part: tuple[str, str], own: Sequence[SplitItem], merged: Mapping[tuple[str, str], Keys]
) -> dict[str, int]:
    """Return the number of items that share a text with each part of an earlier split."""
    rank = SPLIT_ORDER.index(part[1])
    return {
        _label(other): int(items_with_keys([one.keys for one in own], keys).sum())
        for other, keys in sorted(merged.items())
        if SPLIT_ORDER.index(other[1]) < rank
    }


def _label(part: tuple[str, str]) -> str:
    return f"{part[0]}, {part[1]}"


def find_leaks(rows: Iterable[PartAudit]) -> list[str]:
    """Return one sentence for each pair of parts that shares a text."""
    return [
        f"{row.scope}: {count} of {row.kept} items of {row.part} share a text with {other}; "
        f"run `{COMMAND} splits`"
        for row in rows
        for other, count in row.leaks.items()
        if count
    ]


def audit_page(rows: Sequence[PartAudit]) -> str:
    """Return the audit as Markdown."""
    lines = [
        "# Leak audit",
        "",
        "Every pair of an earlier and a later split in one scope. Two texts are near-duplicates",
        "when their normalised words are equal, eight words in a row are, or their template",
        "skeletons are ([ADR 0036](adr/0036-one-splitter-closed-held-out-sets-clusters.md)).",
        "Items whose cluster reaches an earlier split are displaced: no loader hands them out.",
        "",
        "| scope | part | items | displaced | left | clusters | leaks left |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {row.scope} | {row.part} | {row.items} | {row.items - row.kept} | {row.kept} | "
        f"{row.clusters} | {sum(row.leaks.values())} |"
        for row in rows
    ]
    lines += [
        "",
        "Items that share a text with an earlier part, before and after the displacement; pairs",
        "without any are left out.",
        "",
        "| scope | part | earlier part | before | after |",
        "| --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {row.scope} | {row.part} | {other} | {count} | {row.leaks[other]} |"
        for row in rows
        for other, count in row.shared.items()
        if count
    ]
    return "\n".join([*lines, "", f"Made by `{COMMAND} leaks`."]) + "\n"
