"""Robustness of the guard to obfuscated text, with tables independent of the guard's own."""

import base64
import codecs
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bem_fleet.data.benign_prompts import load_benign_requests, load_benign_responses
from bem_fleet.data.toxic_comments import load_toxic_comments
from bem_fleet.guard.offline import OfflineGuard

_LOOK_ALIKES = dict(zip("aceopxyijsABCEHKMOPTX", "асеорхуіјѕАВСЕНКМОРТХ", strict=True))  # noqa: RUF001
_INVISIBLE = "\u200b\u200c\u200d\u2060\u00ad\ufeff"
_LEET = str.maketrans("aeiosAEIOS", "4310543105")
_FOREIGN = (
    "Guten Abend, ich schreibe Ihnen wegen der Reise nach Lübeck im nächsten Frühling. ",
    " Le train de midi avait du retard et nous avons mangé dans un petit café.",
)
_DOCUMENT_CHARS = 6000
Obfuscation = Callable[[str, random.Random], str]


def replace_with_look_alikes(text: str, rng: random.Random) -> str:
    """Replace half of the letters that have a look-alike in another script."""
    return "".join(
        _LOOK_ALIKES[letter] if letter in _LOOK_ALIKES and rng.random() < 0.5 else letter
        for letter in text
    )


def insert_invisible_characters(text: str, rng: random.Random) -> str:
    """Insert an invisible character after a third of all characters."""
    return "".join(
        letter + (rng.choice(_INVISIBLE) if rng.random() < 0.34 else "") for letter in text
    )


def space_letters(text: str, rng: random.Random) -> str:
    """Write every third word letter by letter."""
    del rng
    words = text.split(" ")
    return " ".join(" ".join(w) if i % 3 == 0 and len(w) > 3 else w for i, w in enumerate(words))


def embed_in_document(text: str, rng: random.Random, separator: str = "\n") -> str:
    """Put the text between sentences of a long benign document."""
    benign = [one.text for one in load_benign_responses("train") if not one.adapter]
    before, after = rng.sample(benign, 20), rng.sample(benign, 20)
    half = _DOCUMENT_CHARS // 2
    return separator.join((" ".join(before)[:half], text, " ".join(after)[:half]))


OBFUSCATIONS: Mapping[str, Obfuscation] = {
    "none": lambda text, rng: text,  # noqa: ARG005 - only some draw random numbers
    "look-alike letters": replace_with_look_alikes,
    "invisible characters": insert_invisible_characters,
    "full-width letters": lambda text, rng: _full_width(text),  # noqa: ARG005
    "digits for letters": lambda text, rng: text.translate(_LEET),  # noqa: ARG005
    "spaced letters": space_letters,
    "base64": lambda text, rng: base64.b64encode(text.encode()).decode(),  # noqa: ARG005
    "base64 twice": lambda text, rng: base64.b64encode(  # noqa: ARG005
        base64.b64encode(text.encode())
    ).decode(),
    "hexadecimal": lambda text, rng: text.encode().hex(),  # noqa: ARG005
    "rot13": lambda text, rng: codecs.encode(text, "rot13"),  # noqa: ARG005
    "between other languages": lambda text, rng: text.join(_FOREIGN),  # noqa: ARG005
    "a line of a long document": embed_in_document,
    "within a line of 6,000 characters": lambda text, rng: embed_in_document(text, rng, " "),
}


def detection_rates(
    guards: Sequence[OfflineGuard], attacks: Sequence[str], seed: int = 0
) -> list[dict[str, Any]]:
    """Return the share of held-out texts that is withheld or redacted, by obfuscation.

    Args:
        guards: One guard per training seed; rates are their mean.
        attacks: Held-out requests.
        seed: Seed of the random obfuscations.
    """
    toxic = [one.text for one in load_toxic_comments("held_out")][: len(attacks)]
    benign = [one.text for one in load_benign_requests("held_out") if not one.golds][: len(attacks)]
    rows = []
    for name, obfuscate in OBFUSCATIONS.items():
        row: dict[str, Any] = {"obfuscation": name}
        for column, texts, side in (
            ("attacks", attacks, "request"),
            ("toxic responses", toxic, "response"),
            ("benign requests", benign, "request"),
        ):
            rng = random.Random(seed)  # noqa: S311 - not a secret
            obfuscated = [obfuscate(text, rng) for text in texts]
            detected = [_is_detected(guard, text, side) for guard in guards for text in obfuscated]
            row[column] = round(sum(detected) / len(detected), 3)
        rows.append(row)
    return rows


def _is_detected(guard: OfflineGuard, text: str, side: str) -> bool:
    filter_text = guard.filter_request if side == "request" else guard.filter_response
    return bool(filter_text(text).triggered_scorer)


def markdown(rows: Sequence[Mapping[str, Any]], attacks: int) -> str:
    """Return the report as Markdown."""
    lines = [
        "# Guard detection of obfuscated text",
        "",
        "Share withheld or redacted, mean of three training seeds. Texts:",
        f"{attacks} attacks and as many toxic responses of held-out families, and benign requests",
        "of held-out origins. Made by `python -m bem_fleet.studies.guard obfuscation`, whose",
        "tables of look-alikes are independent of the guard's.",
        "",
        "| obfuscation | attacks | toxic responses | benign requests |",
        "| --- | --- | --- | --- |",
    ]
    lines += [
        f"| {row['obfuscation']} | {row['attacks']} | {row['toxic responses']} "
        f"| {row['benign requests']} |"
        for row in rows
    ]
    return "\n".join(lines) + "\n"


def _full_width(text: str) -> str:
    return "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in text)
