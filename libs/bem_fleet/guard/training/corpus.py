"""Training corpus of the heads: labelled requests and responses, split by family of origin."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from bem_fleet.data.benign_prompts import (
    BenignText,
    load_benign_requests,
    load_benign_responses,
)
from bem_fleet.data.guard_texts import ABUSIVE, CLEAN, HARMLESS, written_texts
from bem_fleet.data.held_out import HELD_OUT
from bem_fleet.data.red_team import draw_dev_families, load_red_team
from bem_fleet.data.toxic_comments import load_toxic_comments, uniform_draw
from bem_fleet.guard.scoring.normalization import decode_variants
from bem_fleet.guard.scoring.tiers import MAX_EMBEDDED_WINDOWS
from bem_fleet.guard.scoring.windows import request_windows, sliding_windows

BENIGN = ""
# Splits that heads are fitted to or calibrated on.
FITTED_SPLITS = ("train", "dev")
_DEV_SHARE = 0.25
# Limits per family, so that no family of prompts dominates the others.
_MAX_REQUESTS = {"train": 150, "dev": 60, "held_out": 150}
_MAX_RESPONSES = {"train": 300, "dev": 40, "held_out": 300}
_MAX_REQUESTS_AS_RESPONSES = 100
# Most texts of a packaged family of attacks, and of all jailbreak templates, whose embeddings are
# trained on; the written families and the only comments that people wrote are used whole.
_MAX_ATTACKS, _MAX_TEMPLATES = 40, 70
_TEMPLATES = "templates/"
# Comments that people labelled, each of another author.
COMMENTS = "jigsaw"
_WHOLE_FAMILIES = ("train_", "dev_", COMMENTS)
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


def request_samples(seed: int, splits: Sequence[str] = FITTED_SPLITS) -> list[Sample]:
    """Return attacks by category, and benign requests of many origins.

    Attacks of one near-duplicate family are in one split: their wordings differ by a few words.

    Benign dev requests come from families that no head is fitted to: thresholds calibrated on
    familiar families give three times as many false positives on unseen ones.

    Args:
        seed: Seed of the train and dev splits of the attacks.
        splits: Splits to return; ``held_out`` is closed outside a final evaluation.
    """
    samples = [one for one in _attack_samples(seed, splits) if one.split in splits]
    for split in splits:
        for prompt in _limit_per_family(load_benign_requests(split), _MAX_REQUESTS[split]):
            windows = request_windows(decode_variants(prompt.text), lines=False)
            limit = _MAX_BENIGN_WINDOWS if split == "train" else len(windows)
            kept = _subsample(windows, limit)
            samples.append(Sample(prompt.text, BENIGN, prompt.family, split, kept))
    for split in _fitted(splits):
        for item in written_texts(split):
            if not item.is_reply:
                label = BENIGN if item.label == HARMLESS else item.label
                kept = tuple(request_windows([item.text], lines=False))
                samples.append(Sample(item.text, label, item.family, split, kept))
    return samples


def _attack_samples(seed: int, splits: Sequence[str]) -> Iterator[Sample]:
    """Yield the attacks of the sources that the splits need; some may be of other splits."""
    for source in _sources(splits):
        attacks = load_red_team(source)
        dev = draw_dev_families(attacks, seed) if source != HELD_OUT else frozenset()
        for attack in attacks:
            windows = request_windows(decode_variants(attack.text), lines=False)
            if source == HELD_OUT:
                split, kept = HELD_OUT, _subsample(windows, MAX_EMBEDDED_WINDOWS)
            else:
                # In a document that hides an attack only the windows with it are violating.
                violating = [window for window in windows if attack.rogue_string in window]
                kept = _subsample(violating or windows, _MAX_ATTACK_WINDOWS)
                split = "dev" if attack.cluster in dev else "train"
            yield Sample(attack.text, attack.category, attack.family, split, kept)


def response_samples(seed: int, splits: Sequence[str] = FITTED_SPLITS) -> list[Sample]:
    """Return comments that people labelled toxic, and benign responses.

    Args:
        seed: Seed of the train and dev splits of the toxic comments; benign splits are by family.
        splits: Splits to return; ``held_out`` is closed outside a final evaluation.
    """
    samples = [
        _response(comment.text, "toxicity", COMMENTS, split)
        for source in _sources(splits)
        for comment in load_toxic_comments(source)
        if (split := source if source == HELD_OUT else _assign_split(comment.text, seed)) in splits
    ]
    for split in splits:
        texts = [
            *_limit_per_family(load_benign_responses(split), _MAX_RESPONSES[split]),
            *_limit_per_family(load_benign_requests(split), _MAX_REQUESTS_AS_RESPONSES),
        ]
        samples += [_response(text.text, BENIGN, text.family, split) for text in texts]
    labels = {ABUSIVE: "toxicity", CLEAN: BENIGN}
    samples += [
        _response(item.text, labels[item.label], item.family, split)
        for split in _fitted(splits)
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
            families[family_group(sample.family)].append(sample)
    kept: list[Sample] = []
    for family, members in families.items():
        limit = max_benign if members[0].label == BENIGN else _MAX_ATTACKS
        if family == _TEMPLATES:
            limit = _MAX_TEMPLATES
        elif family.startswith(_WHOLE_FAMILIES):
            limit = len(members)
        kept += sorted(members, key=lambda member: _hash(member.text))[:limit]
    return kept


def family_group(family: str) -> str:
    """Return the family that a text counts for: all jailbreak templates are one."""
    return _TEMPLATES if family.startswith(_TEMPLATES) else family


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


def _assign_split(group: str, seed: int) -> str:
    """Return ``train`` or ``dev`` for a comment that is not held out."""
    # The held-out comments are those with the lowest draws: "dev" keeps clear of that end.
    return "dev" if uniform_draw(group, seed) > 1 - _DEV_SHARE else "train"


def _sources(splits: Sequence[str]) -> list[str]:
    """Return the splits of the data sets, which know no dev split, that the splits need."""
    return [
        source
        for source, needed in (("train", bool(_fitted(splits))), (HELD_OUT, HELD_OUT in splits))
        if needed
    ]


def _fitted(splits: Sequence[str]) -> list[str]:
    return [split for split in splits if split != HELD_OUT]


def corpus_digest(samples: Sequence[Sample]) -> str:
    """Return the SHA-256 of all texts with their labels and families, hexadecimal."""
    rows = sorted(f"{sample.label}\t{sample.family}\t{sample.text}" for sample in samples)
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()


def written_digest() -> str:
    """Return the SHA-256 of the texts written for training and calibration, hexadecimal.

    It is the same for all seeds, so that heads of another version of the lists can be told.
    """
    rows = sorted(
        f"{split}\t{item.label}\t{item.family}\t{item.text}"
        for split in FITTED_SPLITS
        for item in written_texts(split)
    )
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()
