"""Training corpus of the heads: labelled requests and responses, split by family of origin."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from bem_fleet.data.benign_prompts import (
    SPLITS,
    BenignText,
    load_benign_requests,
    load_benign_responses,
)
from bem_fleet.data.datasets import get_dataset
from bem_fleet.data.guard_texts import ABUSIVE, CLEAN, HARMLESS, written_texts
from bem_fleet.data.red_team import load_red_team
from bem_fleet.guard.scoring.normalization import decode_variants
from bem_fleet.guard.scoring.tiers import MAX_EMBEDDED_WINDOWS
from bem_fleet.guard.scoring.windows import request_windows, sliding_windows

BENIGN = ""
# Splits of the written texts that heads are fitted to or calibrated on; nothing here opens the
# held-out ones.
FITTED_SPLITS = ("train", "dev")
_DEV_SHARE = 0.25
_HELD_OUT_TOXIC_SHARE = 0.15
# Limits per family, so that no family of prompts dominates the others.
_MAX_REQUESTS = {"train": 150, "dev": 60, "held_out": 150}
_MAX_RESPONSES = {"train": 300, "dev": 40, "held_out": 300}
_MAX_REQUESTS_AS_RESPONSES = 100
# Most texts of a packaged family of attacks, and of all jailbreak templates, whose embeddings are
# trained on; the written families and the only comments that people wrote are used whole.
_MAX_ATTACKS, _MAX_TEMPLATES = 40, 70
_TEMPLATES = "templates/"
_WHOLE_FAMILIES = ("train_", "dev_", "jigsaw")
# Windows per text: a template of a thousand words would otherwise count like twenty prompts.
_MAX_ATTACK_WINDOWS = 2
_MAX_BENIGN_WINDOWS = 3


@dataclass(frozen=True)
class Sample:
    """Labelled text with its windows.

    Attributes:
        text: Original text.
        label: Category of the attack, ``toxicity``, or ``BENIGN``.
        family: Origin of the text.
        split: ``train``, ``dev`` or ``held_out``; held-out families are in no other split.
        windows: Windows to score; the score of the text is their maximum.
        is_response: Whether the text stands for a response.
    """

    text: str
    label: str
    family: str
    split: str
    windows: tuple[str, ...]
    is_response: bool = False


def request_samples(seed: int) -> list[Sample]:
    """Return attacks by category, and benign requests of many origins.

    Benign dev requests come from families that no head is fitted to: thresholds calibrated on
    familiar families give three times as many false positives on unseen ones.

    Args:
        seed: Seed of the train and dev splits of the attacks.
    """
    samples = []
    for attack in load_red_team():
        windows = request_windows(decode_variants(attack.text), lines=False)
        if attack.split == "held_out":
            kept = _subsample(windows, MAX_EMBEDDED_WINDOWS)
        else:
            # In a document that hides an attack only the windows with the attack are violating.
            violating = [window for window in windows if attack.rogue_string in window]
            kept = _subsample(violating or windows, _MAX_ATTACK_WINDOWS)
        split = attack.split if attack.split == "held_out" else _assign_split(attack.text, seed)
        samples.append(Sample(attack.text, attack.category, attack.family, split, kept))
    for split in SPLITS:
        for prompt in _limit_per_family(load_benign_requests(split), _MAX_REQUESTS[split]):
            windows = request_windows(decode_variants(prompt.text), lines=False)
            limit = _MAX_BENIGN_WINDOWS if split == "train" else len(windows)
            kept = _subsample(windows, limit)
            samples.append(Sample(prompt.text, BENIGN, prompt.family, split, kept))
    for split in FITTED_SPLITS:
        for item in written_texts(split):
            if not item.is_reply:
                label = BENIGN if item.label == HARMLESS else item.label
                kept = tuple(request_windows([item.text], lines=False))
                samples.append(Sample(item.text, label, item.family, split, kept))
    return samples


def unseen_benign_requests() -> list[Sample]:
    """Return the benign requests that no head was fitted to or calibrated on."""
    return [
        sample
        for sample in request_samples(0)
        if sample.label == BENIGN and sample.split == "held_out"
    ]


def response_samples(seed: int) -> list[Sample]:
    """Return comments that people labelled toxic, and benign responses.

    Args:
        seed: Seed of the split of the toxic comments; benign splits are by family.
    """
    samples = [
        _response(
            comment.question,
            "toxicity",
            "jigsaw",
            _assign_split(comment.question, seed, held_out=_HELD_OUT_TOXIC_SHARE),
        )
        for comment in get_dataset("toxicity").read()
    ]
    for split in SPLITS:
        texts = [
            *_limit_per_family(load_benign_responses(split), _MAX_RESPONSES[split]),
            *_limit_per_family(load_benign_requests(split), _MAX_REQUESTS_AS_RESPONSES),
        ]
        samples += [_response(text.text, BENIGN, text.family, split) for text in texts]
    labels = {ABUSIVE: "toxicity", CLEAN: BENIGN}
    samples += [
        _response(item.text, labels[item.label], item.family, split)
        for split in FITTED_SPLITS
        for item in written_texts(split)
        if item.is_reply
    ]
    return samples


def _response(text: str, label: str, family: str, split: str) -> Sample:
    return Sample(text, label, family, split, tuple(sliding_windows(text)), is_response=True)


def limit_families(samples: Iterable[Sample], split: str, max_benign: int = 14) -> list[Sample]:
    """Return the samples of a split with few of each packaged family and all written ones.

    Embedding all packaged texts would take an hour, and the written families would weigh nothing.
    Jailbreak templates count as one family.

    Args:
        samples: Samples of all splits.
        split: ``train`` or ``dev``.
        max_benign: Most texts of a packaged benign family.
    """
    families: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        if sample.split == split:
            is_template = sample.family.startswith(_TEMPLATES)
            families[_TEMPLATES if is_template else sample.family].append(sample)
    kept: list[Sample] = []
    for family, members in families.items():
        limit = max_benign if members[0].label == BENIGN else _MAX_ATTACKS
        if family == _TEMPLATES:
            limit = _MAX_TEMPLATES
        elif family.startswith(_WHOLE_FAMILIES):
            limit = len(members)
        kept += sorted(members, key=lambda member: _hash(member.text))[:limit]
    return kept


def _subsample(windows: Sequence[str], limit: int) -> tuple[str, ...]:
    """Return at most ``limit`` windows; the choice depends on nothing but their hashes."""
    return tuple(sorted(windows, key=_hash)[:limit] if len(windows) > limit else windows)


def _limit_per_family(texts: Iterable[BenignText], limit: int) -> Iterator[BenignText]:
    families: dict[str, list[BenignText]] = defaultdict(list)
    for text in texts:
        families[text.family].append(text)
    for members in families.values():
        yield from sorted(members, key=lambda member: _hash(member.text))[:limit]


def _hash(text: str) -> bytes:
    """Return a sort key that is independent of the meaning of the text."""
    return hashlib.sha256(repr(text).encode()).digest()


def _uniform(text: str, seed: int = 0) -> float:
    """Return a number in [0, 1) that depends on text and seed only."""
    return int(hashlib.sha256(f"{seed}:{text}".encode()).hexdigest()[:12], 16) / 16**12


def _assign_split(text: str, seed: int, held_out: float = 0.0) -> str:
    draw = _uniform(text, seed)
    if draw < held_out:
        return "held_out"
    return "dev" if draw < held_out + _DEV_SHARE else "train"


def corpus_digest(samples: Sequence[Sample]) -> str:
    """Return the SHA-256 of all texts with their labels and families, hexadecimal."""
    rows = sorted(f"{sample.label}\t{sample.family}\t{sample.text}" for sample in samples)
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()
