"""Difference of two adapters: fields of their cards, and their low-rank weights by site."""

import math
from dataclasses import asdict
from pathlib import Path

from bem.adapters.artifact import Adapter, Factors, read_adapter, read_adapter_card
from bem.errors import BaseMismatchError

from bem_fleet.cli.tables import format_table

# Hashes differ wherever anything does, and measured figures are no property of the weights.
_NOT_SHOWN = frozenset({"metrics", "tensors_sha256", "card_sha256"})


def compare_folders(first: Path, second: Path) -> str:
    """Return what differs between two adapters of one base model.

    The weights of a site are ``s B A``. Their cosine is 1 for equal directions and 0 for unrelated
    ones, and the distance is relative to the first adapter; both are computed from the factors.

    Args:
        first: Folder of an adapter.
        second: Folder of the other one.

    Raises:
        BaseMismatchError: The adapters belong to different base models.
        BemError: A folder is no adapter.
    """
    cards = read_adapter_card(first), read_adapter_card(second)
    if cards[0].base_digest != cards[1].base_digest:
        raise BaseMismatchError(
            f"{first} is of {cards[0].base_name} and {second} of {cards[1].base_name}; only "
            "adapters of one base model can be compared"
        )
    one, other = (read_adapter(path, base_digest=cards[0].base_digest) for path in (first, second))
    if one.version == other.version:
        return f"equal: version {one.version[:12]}"
    fields = asdict(cards[0]), asdict(cards[1])
    rows = [
        (name, str(value)[:60], str(fields[1].get(name))[:60])
        for name, value in fields[0].items()
        if name not in _NOT_SHOWN and value != fields[1].get(name)
    ]
    table = format_table([("field", first.name, second.name), *rows]) if rows else "cards: equal"
    return "\n".join([table, *_weight_lines(one, other)])


def _weight_lines(one: Adapter, other: Adapter) -> list[str]:
    scales = one.card.scale, other.card.scale
    shared = sorted(one.factors.keys() & other.factors.keys())
    lines = []
    for name, mine, theirs in (("first", one, other), ("second", other, one)):
        if only := sorted(mine.factors.keys() - theirs.factors.keys()):
            lines.append(f"sites of the {name} alone: {len(only)}, from {only[0]}")
    if not shared:
        return [*lines, "no site is common"]
    products = [0.0, 0.0, 0.0]
    for path in shared:
        pair = one.factors[path], other.factors[path]
        products[0] += scales[0] ** 2 * _inner(pair[0], pair[0])
        products[1] += scales[1] ** 2 * _inner(pair[1], pair[1])
        products[2] += scales[0] * scales[1] * _inner(*pair)
    own, others, both = products
    cosine = both / math.sqrt(own * others) if own and others else math.nan
    distance = math.sqrt(max(0.0, own + others - 2 * both) / own) if own else math.nan
    return [
        *lines,
        f"weights of {len(shared)} common sites: cosine {cosine:.4f}, distance {distance:.4f}",
    ]


def _inner(one: Factors, other: Factors) -> float:
    """Return the inner product of ``B A`` of two sites; neither product is formed."""
    (a, b), (c, d) = one, other
    return float(((b.float().T @ d.float()) * (a.float() @ c.float().T)).sum())
