"""Labelled windows: of families that heads learn from, and of families that they never see."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bem_fleet.data.benign_prompts import (
    SPLITS,
    BenignText,
    load_benign_requests,
    load_benign_responses,
)
from bem_fleet.data.datasets import get_dataset
from bem_fleet.data.red_team import load_red_team
from bem_fleet.guard.scoring.embedding import WIDTH, MiniLM
from bem_fleet.guard.scoring.normalization import readings
from bem_fleet.guard.scoring.tiers import EMBEDDED
from bem_fleet.guard.scoring.windows import asked_windows, windows

BENIGN = ""
_DEV = 0.25
# Of one origin at most, so that no set of questions rules the rest.
_MOST = {"train": 300, "dev": 400, "held_out": 150}
_MOST_SAID = {"train": 600, "dev": 600, "held_out": 300}
# A template of a thousand words would stand for twenty prompts.
_WINDOWS_OF_ATTACK = 2
_WINDOWS_OF_CALM = 3


@dataclass(frozen=True)
class Sample:
    """One text with its windows.

    Attributes:
        text: As it came.
        label: Category of the attack, or ``BENIGN``.
        family: Its origin.
        split: ``train``, ``dev`` or ``held_out``; the last are whole families.
        pieces: What is scored; the worst counts.
    """

    text: str
    label: str
    family: str
    split: str
    pieces: tuple[str, ...]


def asked(seed: int) -> list[Sample]:
    """Return requests: attacks by category, and harmless ones of many origins.

    Harmless dev requests are of origins that no head is fitted to: thresholds chosen on origins
    that a head knows let three times as many strangers be withheld.

    Args:
        seed: Of the split of the learned families of attacks into train and dev.
    """
    found = []
    for one in load_red_team():
        pieces = asked_windows(readings(one.text), lines=False)
        if one.split == "held_out":
            kept = _at_most(pieces, EMBEDDED)
        else:
            # The other windows of a document in which an attack hides are harmless.
            hiding = [piece for piece in pieces if one.rogue_string in piece]
            kept = _at_most(hiding or pieces, _WINDOWS_OF_ATTACK)
        split = one.split if one.split == "held_out" else _split(one.text, seed)
        found.append(Sample(one.text, one.category, one.family, split, kept))
    for split in SPLITS:
        for calm in _few(load_benign_requests(split), _MOST[split]):
            pieces = asked_windows(readings(calm.text), lines=False)
            kept = _at_most(pieces, _WINDOWS_OF_CALM if split == "train" else len(pieces))
            found.append(Sample(calm.text, BENIGN, calm.family, split, kept))
    return found


def strangers() -> list[Sample]:
    """Return the harmless requests that no head was fitted to or calibrated on."""
    return [one for one in asked(0) if one.label == BENIGN and one.split == "held_out"]


def said(seed: int) -> list[Sample]:
    """Return answers: texts that people labelled toxic, and harmless ones.

    Args:
        seed: Of the split of the toxic ones; harmless held-out origins are never seen.
    """
    found = [
        _answer(one.question, "toxicity", "jigsaw", _split(one.question, seed, held_out=0.15))
        for one in get_dataset("toxicity").read()
    ]
    for split in SPLITS:
        texts = [
            *_few(load_benign_responses(split), _MOST_SAID[split]),
            *_few(load_benign_requests(split), 100),
        ]
        found += [_answer(one.text, BENIGN, one.family, split) for one in texts]
    return found


def _answer(text: str, label: str, family: str, split: str) -> Sample:
    return Sample(text, label, family, split, tuple(windows(text)))


def _at_most(pieces: Sequence[str], most: int) -> tuple[str, ...]:
    return tuple(sorted(pieces, key=_order)[:most] if len(pieces) > most else pieces)


def _few(texts: Iterable[BenignText], most: int) -> Iterator[BenignText]:
    groups: dict[str, list[BenignText]] = defaultdict(list)
    for one in texts:
        groups[one.family].append(one)
    for group in groups.values():
        yield from sorted(group, key=lambda one: _order(one.text))[:most]


def _order(text: str) -> bytes:
    """Return what puts texts in an order that has nothing to do with what they say."""
    return hashlib.sha256(repr(text).encode()).digest()


def _draw(text: str, seed: int = 0) -> float:
    return int(hashlib.sha256(f"{seed}:{text}".encode()).hexdigest()[:12], 16) / 16**12


def _split(text: str, seed: int, held_out: float = 0.0) -> str:
    draw = _draw(text, seed)
    if draw < held_out:
        return "held_out"
    return "dev" if draw < held_out + _DEV else "train"


def digest(samples: Sequence[Sample]) -> str:
    """Return the SHA-256 of all texts with their labels, hexadecimal."""
    rows = sorted(f"{one.label}\t{one.family}\t{one.text}" for one in samples)
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()


class Embeddings:
    """Embeddings of windows; what was embedded before is read back.

    Args:
        path: An ``.npz`` file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._model: MiniLM | None = None
        self._known: dict[str, NDArray[np.float32]] = {}
        if path.exists():
            with np.load(path) as stored:
                names = stored["keys"].tolist()
                self._known = dict(zip(names, stored["vectors"], strict=True))

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return vectors [len(texts), 384], kept in memory only."""
        return self.of(texts, store=False)

    def of(self, pieces: Sequence[str], *, store: bool = True) -> NDArray[np.float32]:
        """Return vectors [len(pieces), 384]."""
        keys = [hashlib.sha256(piece.encode()).hexdigest() for piece in pieces]
        missing = {
            key: piece for key, piece in zip(keys, pieces, strict=True) if key not in self._known
        }
        if missing:
            self._model = self._model or MiniLM()
            vectors = self._model.embed(list(missing.values()))
            self._known |= dict(zip(missing, vectors, strict=True))
            if store:
                self._store()
        if not keys:
            return np.zeros((0, WIDTH), dtype=np.float32)
        return np.stack([self._known[key] for key in keys])

    def _store(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(
            self._path,
            keys=np.array(list(self._known)),
            vectors=np.stack(list(self._known.values())),
        )
