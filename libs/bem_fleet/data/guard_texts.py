r"""Texts written for the guard: templates with slots, expanded by family.

The files of ``lists/guard`` hold requests and replies. A heading ``# label | family`` opens a
family, ``@name: a | b`` defines a slot of the family, and every other line is a template:
``{a|b}`` stands for one of the alternatives, ``{name}`` for a value of the slot, and ``\{``,
``\}`` and ``\|`` for the characters themselves. Example: ``{Tell|Ask} me about {thing}.``

``held_out_languages.txt`` has rows instead of templates: one request in eight languages, English
first, separated by ``||``. ``dev_languages.txt`` has one text a line and a language a heading, and
``dev_foreign_words.txt`` harmless English with names, quotations and words of other languages: the
scorer of the language was chosen on them, and no head reads them.

Families of a held-out file are in no other file, and ``bem_fleet.data.held_out`` keeps them closed
to everything but a final evaluation.
"""

import hashlib
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from bem_fleet.data.displaced import displaced_keys
from bem_fleet.data.held_out import require_open

SET, LANGUAGES_SET = "guard-texts", "guard-languages"
HARMLESS, ABUSIVE, CLEAN = "harmless", "abusive", "clean"
REPLY_LABELS = (ABUSIVE, CLEAN)
# Files of each split; the largest number of texts of a template, and of a family.
FILES = {
    "train": (
        "train_harmless",
        "train_harmful",
        "train_pairs",
        "train_replies",
        "train_replies_more",
        "train_harmful_more",
        "train_harmless_more",
        "train_replies_long",
    ),
    "dev": (
        "dev_harmless",
        "dev_harmful",
        "dev_replies",
        "dev_harmful_more",
        "dev_harmless_more",
        "dev_replies_more",
    ),
    "held_out": (
        "held_out_harmless",
        "held_out_own_data",
        "held_out_harmful",
        "held_out_replies",
    ),
}
# Files of the language scorer's development.
LANGUAGE_FILES = ("dev_languages", "dev_foreign_words")
MAX_TEXTS = {"train": (14, 140), "dev": (10, 40), "held_out": (14, 30)}
_FOLDER = Path(__file__).with_name("lists") / "guard"
_TOKEN = re.compile(r"\\[{}|]|[{}|]|[^\\{}|]+|\\")
_DRAWS = 6

# A template: literals, and alternatives of templates.
_Node = str | list["_Template"]
_Template = list[_Node]


@dataclass(frozen=True)
class WrittenText:
    """Text of a template.

    Attributes:
        text: Request, or reply of a model.
        label: ``harmless`` or a category of attacks for requests; ``abusive`` or ``clean`` for
            replies; ``other`` for texts in other languages.
        family: File and heading of the template.
        template: Template that the text was made of.
        split: ``train``, ``dev`` or ``held_out``.
    """

    text: str
    label: str
    family: str
    template: str
    split: str

    @property
    def is_reply(self) -> bool:
        """Whether the text stands for a reply of a model."""
        return self.label in REPLY_LABELS

    @property
    def key(self) -> str:
        """Digest of the text, 16 hexadecimal characters."""
        return _shuffle_key(self.text).hex()[:16]

    @property
    def cluster(self) -> str:
        """Unit of resampling: texts of one family succeed and fail together."""
        return self.family


def written_texts(split: str) -> tuple[WrittenText, ...]:
    """Return the texts of a split; near-duplicates of an earlier split are left out.

    Raises:
        HeldOutClosedError: The split is held out, and no final evaluation is running.
    """
    require_open(SET, split)
    displaced = displaced_keys(SET)
    return tuple(one for one in all_written_texts(split) if one.key not in displaced)


@cache
def all_written_texts(split: str) -> tuple[WrittenText, ...]:
    """Return the texts of a split without duplicates, in the order of the files.

    Near-duplicates of other splits are among them: this is for the splitter.
    """
    return _read_texts(FILES[split], split)


def language_texts(file: str) -> tuple[WrittenText, ...]:
    """Return development texts of the language scorer; near-duplicates of training are left out.

    Args:
        file: One of ``LANGUAGE_FILES``.
    """
    displaced = displaced_keys(SET)
    return tuple(one for one in all_language_texts(file) if one.key not in displaced)


@cache
def all_language_texts(file: str) -> tuple[WrittenText, ...]:
    """Return the texts of one of ``LANGUAGE_FILES`` before near-duplicates are left out."""
    return _read_texts((file,), "dev")


def _read_texts(files: Sequence[str], split: str) -> tuple[WrittenText, ...]:
    per_template, per_family = MAX_TEXTS[split]
    texts: dict[str, WrittenText] = {}
    for file in files:
        for label, family, slots, templates in _read_families(_FOLDER / f"{file}.txt"):
            members: dict[str, WrittenText] = {}
            for template in templates:
                for text in expand(template, slots, per_template):
                    item = WrittenText(text, label, f"{file}/{family}", template, split)
                    members.setdefault(text, item)
            for text in sorted(members, key=_shuffle_key)[:per_family]:
                texts.setdefault(text, members[text])
    return tuple(texts.values())


LANGUAGES = (
    "English",
    "German",
    "French",
    "Spanish",
    "Russian",
    "Italian",
    "Portuguese",
    "Chinese",
)
_PARALLEL = "held_out_languages"


@dataclass(frozen=True)
class ParallelText:
    """Request in several languages.

    Attributes:
        texts: The request in the order of ``LANGUAGES``.
        label: ``harmless`` or a category of attacks.
        family: File and heading of the row.
    """

    texts: tuple[str, ...]
    label: str
    family: str

    @property
    def key(self) -> str:
        """Digest of the English text, 16 hexadecimal characters."""
        return _shuffle_key(self.texts[0]).hex()[:16]


def parallel_texts() -> tuple[ParallelText, ...]:
    """Return the held-out requests that are written in all languages.

    Raises:
        HeldOutClosedError: No final evaluation is running.
    """
    require_open(LANGUAGES_SET)
    displaced = displaced_keys(LANGUAGES_SET)
    return tuple(one for one in all_parallel_texts() if one.key not in displaced)


@cache
def all_parallel_texts() -> tuple[ParallelText, ...]:
    """Return the requests in all languages before near-duplicates are left out."""
    rows = []
    for label, family, _, lines in _read_families(_FOLDER / f"{_PARALLEL}.txt"):
        for line in lines:
            texts = tuple(part.strip() for part in line.split("||"))
            if len(texts) != len(LANGUAGES):
                raise ValueError(f"{_PARALLEL}: {line[:40]!r} has {len(texts)} languages; add all")
            rows.append(ParallelText(texts, label, f"{_PARALLEL}/{family}"))
    return tuple(rows)


def expand(template: str, slots: Mapping[str, Sequence[str]], limit: int) -> list[str]:
    """Return up to ``limit`` distinct texts of a template, drawn reproducibly.

    Args:
        template: Template to expand.
        slots: Values by name of the slot; a value is a template itself.
        limit: Largest number of texts.
    """
    nodes, rest = _parse(_tokens(template), 0)
    if rest != len(_tokens(template)):
        raise ValueError(f"template {template!r}: has an unmatched brace")
    rng = random.Random(hashlib.sha256(template.encode()).digest())  # noqa: S311 - not a secret
    texts: dict[str, None] = {}
    for _ in range(_DRAWS * limit):
        text = _tidy(_draw(nodes[0], slots, rng))
        texts.setdefault(text)
        if len(texts) == limit:
            break
    return list(texts)


def _tidy(text: str) -> str:
    """Return the text without the spaces that empty alternatives leave."""
    return re.sub(r" +([.,!?])(?= |$)", r"\1", re.sub(r" {2,}", " ", text)).strip()


def _tokens(template: str) -> list[str]:
    return _TOKEN.findall(template)


def _parse(tokens: Sequence[str], at: int) -> tuple[list[_Template], int]:
    """Return the alternatives from ``at`` to the closing brace, and the place behind them."""
    alternatives: list[_Template] = [[]]
    depth_open = at > 0
    while at < len(tokens) and tokens[at] != "}":
        token = tokens[at]
        at += 1
        if token == "{":  # noqa: S105 - a brace
            inner, at = _parse(tokens, at)
            alternatives[-1].append(inner)
            at += 1
        elif token == "|" and depth_open:  # noqa: S105 - a bar
            alternatives.append([])
        else:
            alternatives[-1].append(token[-1] if token[0] == "\\" else token)
    return alternatives, at


def _draw(nodes: _Template, slots: Mapping[str, Sequence[str]], rng: random.Random) -> str:
    parts = []
    for node in nodes:
        if isinstance(node, str):
            parts.append(node)
        elif len(node) == 1 and len(node[0]) == 1 and str(node[0][0]) in slots:
            value, _ = _parse(_tokens(rng.choice(slots[str(node[0][0])])), 0)
            parts.append(_draw(value[0], slots, rng))
        else:
            parts.append(_draw(rng.choice(node), slots, rng))
    return "".join(parts)


def _read_families(
    path: Path,
) -> Iterator[tuple[str, str, dict[str, list[str]], list[str]]]:
    """Yield label, family, slots and templates of each heading of a file."""
    label = family = ""
    slots: dict[str, list[str]] = {}
    templates: list[str] = []
    for line in [*path.read_text(encoding="utf-8").splitlines(), "# |"]:
        if line.startswith("# ") and "|" in line and not templates and not label:
            label, _, family = (part.strip() for part in line[2:].partition("|"))
        elif line.startswith("# ") and "|" in line:
            yield label, family, slots, templates
            label, _, family = (part.strip() for part in line[2:].partition("|"))
            slots, templates = {}, []
        elif line.startswith("@"):
            name, _, values = line[1:].partition(":")
            slots[name.strip()] = [value.strip() for value in values.split(" | ")]
        elif line.strip():
            templates.append(line.strip())


def _shuffle_key(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
