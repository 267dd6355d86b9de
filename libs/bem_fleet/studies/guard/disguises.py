"""How much of what the guard holds it still holds in disguise: made here, not by its own tables."""

import base64
import codecs
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bem_fleet.data.benign_prompts import load_benign_requests, load_benign_responses
from bem_fleet.guard.training.corpus import said
from bem_fleet.studies.guard.guard_runner import Guard

_ALIKE = dict(zip("aceopxyijsABCEHKMOPTX", "асеорхуіјѕАВСЕНКМОРТХ", strict=True))  # noqa: RUF001
_INVISIBLE = "\u200b\u200c\u200d\u2060\u00ad\ufeff"
_LEET = str.maketrans("aeiosAEIOS", "4310543105")
_FOREIGN = (
    "Guten Abend, ich schreibe Ihnen wegen der Reise nach Lübeck im nächsten Frühling. ",
    " Le train de midi avait du retard et nous avons mangé dans un petit café.",
)
_LONG_CHARS = 6000
Disguise = Callable[[str, random.Random], str]


def alike(text: str, rng: random.Random) -> str:
    """Put look-alike letters of other scripts in place of half of those that have one."""
    return "".join(
        _ALIKE[letter] if letter in _ALIKE and rng.random() < 0.5 else letter for letter in text
    )


def invisible(text: str, rng: random.Random) -> str:
    """Put an invisible character after a third of all characters."""
    return "".join(
        letter + (rng.choice(_INVISIBLE) if rng.random() < 0.34 else "") for letter in text
    )


def spaced(text: str, rng: random.Random) -> str:
    """Write every third word letter by letter."""
    del rng
    words = text.split(" ")
    return " ".join(" ".join(w) if i % 3 == 0 and len(w) > 3 else w for i, w in enumerate(words))


def in_document(text: str, rng: random.Random, between: str = "\n") -> str:
    """Put the text between sentences of a long harmless document."""
    around = [one.text for one in load_benign_responses("train") if not one.adapter]
    before, after = rng.sample(around, 20), rng.sample(around, 20)
    half = _LONG_CHARS // 2
    return between.join((" ".join(before)[:half], text, " ".join(after)[:half]))


DISGUISES: Mapping[str, Disguise] = {
    "none": lambda text, rng: text,  # noqa: ARG005 - the others draw
    "look-alike letters": alike,
    "invisible characters": invisible,
    "full-width letters": lambda text, rng: _wide(text),  # noqa: ARG005
    "digits for letters": lambda text, rng: text.translate(_LEET),  # noqa: ARG005
    "spaced letters": spaced,
    "base64": lambda text, rng: base64.b64encode(text.encode()).decode(),  # noqa: ARG005
    "base64 twice": lambda text, rng: base64.b64encode(  # noqa: ARG005
        base64.b64encode(text.encode())
    ).decode(),
    "hexadecimal": lambda text, rng: text.encode().hex(),  # noqa: ARG005
    "rot13": lambda text, rng: codecs.encode(text, "rot13"),  # noqa: ARG005
    "between other languages": lambda text, rng: text.join(_FOREIGN),  # noqa: ARG005
    "a line of a long document": in_document,
    "within a line of 6,000 characters": lambda text, rng: in_document(text, rng, " "),
}


def held(guards: Sequence[Guard], attacks: Sequence[str], seed: int = 0) -> list[dict[str, Any]]:
    """Return by disguise the share of held-out attacks and toxic answers that are held.

    Args:
        guards: One a training seed; shares are their mean.
        attacks: Held-out requests.
        seed: Of what disguises draw.
    """
    answers = [
        one.text for one in said(seed) if one.split == "held_out" and one.label == "toxicity"
    ][: len(attacks)]
    harmless = [one.text for one in load_benign_requests("held_out") if not one.golds][
        : len(attacks)
    ]
    rows = []
    for name, disguise in DISGUISES.items():
        row: dict[str, Any] = {"disguise": name}
        for what, texts, side in (
            ("attacks", attacks, "request"),
            ("toxic answers", answers, "response"),
            ("harmless requests", harmless, "request"),
        ):
            rng = random.Random(seed)  # noqa: S311 - no secret
            written = [disguise(text, rng) for text in texts]
            stopped = [
                bool((guard.request(one) if side == "request" else guard.response(one)).touched)
                for guard in guards
                for one in written
            ]
            row[what] = round(sum(stopped) / len(stopped), 3)
        rows.append(row)
    return rows


def markdown(rows: Sequence[Mapping[str, Any]], attacks: int) -> str:
    """Return the page."""
    lines = [
        "# What the guard holds in disguise",
        "",
        f"Share held or changed, mean of three training seeds: {attacks} attacks of families and",
        "as many toxic answers that no head was trained on, and harmless requests of origins",
        "that none was trained on. Made by `python -m bem_fleet.studies.guard disguises`, which has its own",
        "tables of look-alikes.",
        "",
        "| disguise | attacks | toxic answers | harmless requests |",
        "| --- | --- | --- | --- |",
    ]
    lines += [
        f"| {r['disguise']} | {r['attacks']} | {r['toxic answers']} | {r['harmless requests']} |"
        for r in rows
    ]
    return "\n".join(lines) + "\n"


def _wide(text: str) -> str:
    return "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in text)
