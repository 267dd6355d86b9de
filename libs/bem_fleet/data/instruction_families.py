"""Families of instructions: the same kind of request, answered by a convention of its own.

A family is a domain with a kind (record format, tool signature or message labels) and a
convention. Domains and conventions are split together: the 24 families of ``train`` teach the bank
of the online learner, the 6 of ``dev`` choose its settings, and the 3 of ``held_out`` are those of
gate B, one of each kind. Within a family, the wordings of the feedback stream and of the probes
have no part in common, so that a probe is never a repetition.

Example: the stream of weather's records asks "Please write down the weather in Oslo on Monday in
celsius as a record." and wants ``{"city": "Oslo", "day": "Monday", "unit": "celsius"}``. A probe
asks for the same as "For our files: how Oslo will be on Monday, in celsius (a record will do)".
"""

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from bem.errors import DataFormatError

from bem_fleet.data.family_conventions import CLASSES, FORMATS, LABELS, MESSAGES, SIGNATURES
from bem_fleet.data.family_domains import DOMAINS, FamilyDomain
from bem_fleet.data.held_out import require_open

SET = "instruction-families"
FamilyKind = Literal["format", "signature", "labels"]
KINDS: tuple[FamilyKind, ...] = ("format", "signature", "labels")
FamilyPart = Literal["stream", "probe"]
PARTS: tuple[FamilyPart, ...] = ("stream", "probe")

_OPENINGS: dict[FamilyPart, tuple[str, ...]] = {
    "stream": ("", "Please ", "Now ", "Next, ", "Could you ", "I need you to "),
    "probe": ("Kindly ", "Hello, ", "Right away, ", "One more: ", "If you can, ", "Again, "),
}
_ENDINGS: dict[FamilyPart, tuple[str, ...]] = {
    "stream": (".", ", please.", ". Thank you.", " now.", ", nothing else.", " for me."),
    "probe": ("!", ", thanks.", " (short).", " as usual.", ", and only that.", " for the team."),
}
_REQUESTS: dict[FamilyKind, dict[FamilyPart, tuple[str, ...]]] = {
    "format": {
        "stream": (
            "write down {0} as a record",
            "note {0} in our record form",
            "make the record of {0}",
            "store {0} as one record",
            "put {0} into a record",
            "record {0}",
        ),
        "probe": (
            "turn this into an entry: {0}",
            "file an entry about {0}",
            "log {0}",
            "keep {0} on file",
            "enter {0} in the files",
            "give the entry for {0}",
        ),
    },
    "signature": {
        "stream": (
            "call the tool for {0}",
            "write the tool call for {0}",
            "use the tool to get {0}",
            "invoke the tool for {0}",
            "give the call that gets {0}",
            "run the tool for {0}",
        ),
        "probe": (
            "which function call arranges {0}",
            "send the command for {0}",
            "trigger {0} through the function",
            "issue the command that does {0}",
            "execute the function for {0}",
            "show the command behind {0}",
        ),
    },
    "labels": {
        "stream": (
            'label this message: "{0}"',
            'classify the message "{0}"',
            'which label has "{0}"',
            'give the label of "{0}"',
            'sort "{0}" under a label',
            'tag the message "{0}"',
        ),
        "probe": (
            'where does "{0}" belong',
            'assign a category to "{0}"',
            'route the note "{0}"',
            'categorise "{0}"',
            'decide the category of "{0}"',
            'mark the note "{0}"',
        ),
    },
}


@dataclass(frozen=True)
class FamilyItem:
    """A request with the reply that its family wants; a supervised example.

    Attributes:
        family: Name of the family.
        template: Wording without its slots; a cluster of items that succeed and fail together.
        request: User's message.
        wanted: Wanted reply.
    """

    family: str
    template: str
    request: str
    wanted: str

    def prompt(self) -> str:
        """Return the user's message."""
        return self.request

    def reply(self) -> str:
        """Return the wanted reply."""
        return self.wanted


@dataclass(frozen=True)
class InstructionFamily:
    """A domain with a kind and a convention.

    Attributes:
        split: ``train``, ``dev`` or ``held_out``.
        kind: One of ``KINDS``.
        index: Index of domain and convention in their split.
    """

    split: str
    kind: FamilyKind
    index: int

    @property
    def domain(self) -> FamilyDomain:
        """Domain of the requests."""
        return DOMAINS[self.split][self.index]

    @property
    def name(self) -> str:
        """Unique name: domain and kind."""
        return f"{self.domain.name}-{self.kind}"

    def draw(self, part: FamilyPart, draw: random.Random) -> FamilyItem:
        """Draw an item of a part."""
        probe = PARTS.index(part)
        opening, ending = draw.choice(_OPENINGS[part]), draw.choice(_ENDINGS[part])
        request = draw.choice(_REQUESTS[self.kind][part])
        if self.kind == "labels":
            name = draw.choice(CLASSES)
            message = draw.choice(MESSAGES[name][2 * probe : 2 * probe + 2])
            content, core = message.format(thing=self.domain.thing), message
            wanted = LABELS[self.split][self.index][CLASSES.index(name)]
        else:
            slots = {name: draw.choice(values) for name, values in self.domain.slots.items()}
            core = self.domain.phrases[probe]
            content = core.format(**slots)
            renderers = FORMATS if self.kind == "format" else SIGNATURES
            wanted = renderers[self.split][self.index](self.domain.tool, slots)
        text = f"{opening}{request.format(content)}{ending}"
        template = f"{opening}{request.format(core)}{ending}"
        return FamilyItem(self.name, template, text[0].upper() + text[1:], wanted)


def instruction_families(split: str) -> tuple[InstructionFamily, ...]:
    """Return the families of a split.

    Args:
        split: ``train``, ``dev`` or ``held_out``.

    Raises:
        DataFormatError: The split is unknown.
        HeldOutClosedError: The split is held out, and no final evaluation is running.
    """
    if split not in DOMAINS:
        raise DataFormatError(f"split: {split!r} is unknown; known: {', '.join(DOMAINS)}")
    require_open(SET, split)
    return tuple(
        InstructionFamily(split, kind, index)
        for index in range(len(DOMAINS[split]))
        for kind in KINDS
    )


def family_items(
    family: InstructionFamily, part: FamilyPart, count: int, seed: int = 0
) -> list[FamilyItem]:
    """Return distinct items of a family; the same arguments give the same items.

    Args:
        family: Family of ``instruction_families``.
        part: ``stream`` or ``probe``.
        count: Number of items; a family has more than 500 of each part.
        seed: Seed of the draw.

    Raises:
        DataFormatError: The family has fewer distinct items.
    """
    digest = hashlib.sha256(f"{seed}:{part}:{family.name}".encode()).digest()
    draw = random.Random(digest)  # noqa: S311 - an order, not a secret
    found: dict[str, FamilyItem] = {}
    for _ in range(20 * count + 100):
        if len(found) == count:
            return list(found.values())
        item = family.draw(part, draw)
        found.setdefault(item.request, item)
    raise DataFormatError(f"count: {family.name} has fewer than {count} distinct items; use less")


def items_digest(items: Sequence[FamilyItem]) -> str:
    """Return the SHA-256 of requests and replies, hexadecimal."""
    digest = hashlib.sha256()
    for one in items:
        digest.update(f"{one.family}\0{one.request}\0{one.wanted}\n".encode())
    return digest.hexdigest()
