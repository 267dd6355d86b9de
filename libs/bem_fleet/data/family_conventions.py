"""Conventions of replies that the instruction families teach: formats, signatures and labels.

No prompt states its convention: a family is learned from corrected replies alone.
"""

from collections.abc import Callable, Mapping

Slots = Mapping[str, str]
Renderer = Callable[[str, Slots], str]
"""Function from the domain's tool name and the slots to the wanted reply."""


def _join(template: str, separator: str, slots: Slots) -> str:
    return separator.join(template.format(key=key, value=value) for key, value in slots.items())


def _reversed(slots: Slots) -> Slots:
    return dict(reversed(list(slots.items())))


FORMATS: dict[str, tuple[Renderer, ...]] = {
    "train": (
        lambda _, s: "{" + _join('"{key}": "{value}"', ", ", s) + "}",
        lambda _, s: _join("{key}={value}", "; ", s),
        lambda _, s: _join("<{key}>{value}</{key}>", "", s),
        lambda _, s: "| " + _join("{value}", " | ", s) + " |",
        lambda _, s: _join("{key}: {value}", "\n", s),
        lambda _, s: _join('"{value}"', ",", s),
        lambda _, s: _join("- {key} {value}", "\n", s).upper(),
        lambda _, s: _join("[{key}|{value}]", " ", s),
    ),
    "dev": (
        lambda t, s: f"({t}\n" + _join("  {key} = {value}", "\n", s) + ")",
        lambda _, s: "/" + _join("{key}/{value}", "/", _reversed(s)),
    ),
    "held_out": (lambda _, s: _join("@{key}{{{value}}}", " ", s),),
}
"""Formats of a record, one for each domain of the split."""

SIGNATURES: dict[str, tuple[Renderer, ...]] = {
    "train": (
        lambda t, s: f"get_{t}(" + _join('{key}="{value}"', ", ", s) + ")",
        lambda t, s: f"api.{t}(" + _join('"{value}"', ", ", s) + ")",
        lambda t, s: f"{t}(" + _join('{key}="{value}"', ", ", _reversed(s)) + ")",
        lambda t, s: f"CALL {t} WITH " + _join("{key} '{value}'", ", ", s),
        lambda t, s: f"{t} " + _join('--{key} "{value}"', " ", s),
        lambda t, s: f"GET /{t}?" + _join("{key}={value}", "&", s),
        lambda t, s: f"$api->{t}([" + _join("{key} => '{value}'", ", ", s) + "]);",
        lambda t, s: f'{{"tool": "{t}", "args": [' + _join('"{value}"', ", ", s) + "]}",
    ),
    "dev": (
        lambda t, s: f"({t} " + _join(':{key} "{value}"', " ", s) + ")",
        lambda t, s: f"{t}_v2<" + _join("{value}", ", ", _reversed(s)) + ">()",
    ),
    "held_out": (lambda t, s: f"{t}!! " + _join("{value} as {key}", " then ", _reversed(s)),),
}
"""Signatures of a tool call, one for each domain of the split."""

CLASSES = ("late", "broken", "thanks", "price")
"""Classes of messages, the same in all domains."""

LABELS: dict[str, tuple[tuple[str, str, str, str], ...]] = {
    "train": (
        ("LATE", "FAULT", "PRAISE", "COST"),
        ("1", "2", "3", "4"),
        ("C", "A", "D", "B"),
        ("#wait", "#repair", "#kudos", "#billing"),
        ("queue/red", "queue/blue", "queue/green", "queue/grey"),
        ("IV", "II", "I", "III"),
        ("level two", "level four", "level one", "level three"),
        ("T-delay", "T-defect", "T-smile", "T-money"),
    ),
    "dev": (
        ("north", "east", "south", "west"),
        ("<<hold>>", "<<fix>>", "<<file>>", "<<ask>>"),
    ),
    "held_out": (("basalt", "quartz", "amber", "slate"),),
}
"""Labels of the classes, one tuple for each domain of the split."""

MESSAGES: dict[str, tuple[str, ...]] = {
    "late": (
        "my {thing} has been delayed again",
        "I am still waiting for the {thing}",
        "nobody has sent the {thing} in days",
        "the {thing} should have been here long ago",
    ),
    "broken": (
        "the {thing} does not work at all",
        "there is an error with my {thing}",
        "my {thing} failed halfway through",
        "something about the {thing} is faulty",
    ),
    "thanks": (
        "the {thing} was wonderful",
        "thank you for the {thing}",
        "I could not be happier with the {thing}",
        "great job on my {thing}",
    ),
    "price": (
        "how much is the {thing}",
        "what does the {thing} cost",
        "is there a discount on the {thing}",
        "why was I charged for the {thing}",
    ),
}
"""Messages of each class; the first two are for the stream, the others for probes."""
