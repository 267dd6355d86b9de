"""Data cards: what each set is, whose it is, and what became of it; JSON and a table."""

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

from bem_fleet.data.cleaning import CleaningPlan
from bem_fleet.data.compositions import SEEDS, generate, templates
from bem_fleet.data.facts import FACT_SETS, load_facts
from bem_fleet.data.packages import file_of, sha256_of, version_of
from bem_fleet.data.pipeline import PipelinePlan, run_pipeline, run_set, source_digest
from bem_fleet.data.readers import SETS, SetSpec
from bem_fleet.data.stages import Artifact

Card = dict[str, Any]
GENERATED = "compositions"
_GENERATOR_VERSION = "1"
_GENERATED_ITEMS = {"train": 2000, "dev": 200, "held_out": 500}


def card_of(spec: SetSpec, artifacts: dict[str, Artifact]) -> Card:
    """Return the card of a packaged set.

    Args:
        spec: The set.
        artifacts: What ``run_set`` made of it.
    """
    files = [file_of(spec.package, name) for name in spec.files]
    return {
        "name": spec.name,
        "holds": spec.holds,
        "package": spec.package,
        "package_version": version_of(spec.package),
        "licence": spec.licence,
        "files": [
            {"path": name, "bytes": path.stat().st_size, "sha256": sha256_of(path)}
            for name, path in zip(spec.files, files, strict=True)
        ],
        "bytes": sum(path.stat().st_size for path in files),
        "source_sha256": source_digest(spec),
        **_made(artifacts),
    }


def generated_card(folder: Path) -> Card:
    """Run the pipeline on generated questions of each split's first seed; returns their card."""
    sources = {name: source_digest(SETS[name]) for name in FACT_SETS}
    stated = json.dumps([sources, _GENERATED_ITEMS, _GENERATOR_VERSION])
    digest = hashlib.sha256(stated.encode()).hexdigest()
    records = (
        record
        for split, count in _GENERATED_ITEMS.items()
        for record in generate(split, SEEDS[split].start, count)
    )
    # Generated questions differ in words that near-duplicate removal would not see as different.
    plan = PipelinePlan(cleaning=CleaningPlan(near_duplicates=False, scrub=False))
    return {
        "name": GENERATED,
        "holds": "procedural questions: retrieve, compute or compare, put in a strict format",
        "package": f"bem_fleet.data.compositions over facts of {', '.join(FACT_SETS)}",
        "package_version": _GENERATOR_VERSION,
        "licence": "as of the sets whose facts it uses",
        "files": [],
        "bytes": 0,
        "source_sha256": digest,
        "templates": {split: len(members) for split, members in templates().items()},
        "seeds": {split: [own.start, own.stop - 1] for split, own in SEEDS.items()},
        "facts": {
            split: {kind: len(facts) for kind, facts in kinds.items()}
            for split, kinds in sorted(load_facts().items())
        },
        **_made(run_pipeline(records, digest, plan, folder / GENERATED)),
    }


def write_cards(out: Path, folder: Path) -> list[Card]:
    """Run the pipeline on every set and write ``<name>.json`` and the table ``README.md``.

    Args:
        out: For the cards.
        folder: For artifacts.

    Raises:
        DataNotFoundError: A package is not installed.
    """
    out.mkdir(parents=True, exist_ok=True)
    cards = [card_of(spec, run_set(spec, folder)) for spec in SETS.values()]
    cards.append(generated_card(folder))
    for card in cards:
        text = json.dumps(card, indent=2, ensure_ascii=False) + "\n"
        (out / f"{card['name']}.json").write_text(text, encoding="utf-8")
    (out / "README.md").write_text(_table(cards), encoding="utf-8")
    return cards


def _made(artifacts: dict[str, Artifact]) -> Card:
    clean, formatted, batch = (artifacts[name] for name in ("clean", "format", "batch"))
    splits = Counter(row["split"] for row in formatted.load())
    scrubbed = sum("scrubbed" in row["labels"] for row in clean.load())
    return {
        "rows": {"raw": artifacts["raw"].rows, "clean": clean.rows, "scrubbed": scrubbed},
        "dropped": clean.dropped,
        "splits": dict(sorted(splits.items())),
        "batches": batch.rows,
        "sha256": {name: artifact.sha256 for name, artifact in artifacts.items()},
    }


def _table(cards: list[Card]) -> str:
    lines = [
        "# Data cards",
        "",
        "Written by `make data-cards`: the data pipeline on every set that this repository reads.",
        "Licences are those that the sets' authors publish; the packages carry only HarmBench's.",
        "Sources are read out of installed packages, never downloaded and never committed.",
        "",
        "| set | holds | package | licence | bytes | raw | clean | train, dev, held-out | sha256 |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for card in cards:
        rows, splits = card["rows"], card["splits"]
        shares = ", ".join(str(splits.get(name, 0)) for name in ("train", "dev", "held_out"))
        lines.append(
            f"| [{card['name']}]({card['name']}.json) | {card['holds']} | {card['package']} "
            f"{card['package_version']} | {card['licence']} | {card['bytes']} | {rows['raw']} | "
            f"{rows['clean']} | {shares} | `{card['source_sha256'][:12]}` |"
        )
    return "\n".join(lines) + "\n"
