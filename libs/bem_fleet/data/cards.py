"""Data cards: source, licence and pipeline statistics of each dataset, as JSON and a table."""

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

from bem_fleet.data.cleaning import CleaningPlan
from bem_fleet.data.compositions import SPLIT_SEEDS, composition_templates, generate_questions
from bem_fleet.data.datasets import DATASETS, DatasetSpec
from bem_fleet.data.facts import FACT_DATASETS, load_facts
from bem_fleet.data.held_out import inspection
from bem_fleet.data.packages import package_file, package_file_digest, package_version
from bem_fleet.data.pipeline import PipelinePlan, run_dataset, run_pipeline, source_digest
from bem_fleet.data.stages import Artifact

DataCard = dict[str, Any]
COMPOSITIONS = "compositions"
_GENERATOR_VERSION = "2"
_COMPOSITION_ITEMS = {"train": 2000, "dev": 200, "held_out": 500}


def dataset_card(spec: DatasetSpec, artifacts: dict[str, Artifact]) -> DataCard:
    """Return the card of a packaged dataset.

    Args:
        spec: Dataset specification.
        artifacts: Artifacts of ``pipeline.run_dataset`` by stage.
    """
    files = [package_file(spec.package, name) for name in spec.files]
    return {
        "name": spec.name,
        "description": spec.description,
        "package": spec.package,
        "package_version": package_version(spec.package),
        "licence": spec.licence,
        "files": [
            {"path": name, "bytes": path.stat().st_size, "sha256": package_file_digest(path)}
            for name, path in zip(spec.files, files, strict=True)
        ],
        "bytes": sum(path.stat().st_size for path in files),
        "source_sha256": source_digest(spec),
        **_artifact_fields(artifacts),
    }


def composition_card(folder: Path) -> DataCard:
    """Run the pipeline on generated questions of each split's first seed and return their card."""
    sources = {name: source_digest(DATASETS[name]) for name in FACT_DATASETS}
    identity = json.dumps([sources, _COMPOSITION_ITEMS, _GENERATOR_VERSION])
    digest = hashlib.sha256(identity.encode()).hexdigest()
    with inspection():  # the card counts the rows and shows none
        records = [
            record
            for split, count in _COMPOSITION_ITEMS.items()
            for record in generate_questions(split, SPLIT_SEEDS[split].start, count)
        ]
    # Near-duplicate removal ignores case and punctuation, which distinguish generated questions.
    plan = PipelinePlan(cleaning=CleaningPlan(near_duplicates=False, scrub=False))
    return {
        "name": COMPOSITIONS,
        "description": "procedural questions: retrieve, compute or compare, put in a strict format",
        "package": f"bem_fleet.data.compositions over facts of {', '.join(FACT_DATASETS)}",
        "package_version": _GENERATOR_VERSION,
        "licence": "licences of the datasets whose facts it uses",
        "files": [],
        "bytes": 0,
        "source_sha256": digest,
        "templates": {split: len(members) for split, members in composition_templates().items()},
        "seeds": {split: [own.start, own.stop - 1] for split, own in SPLIT_SEEDS.items()},
        "facts": {
            split: {kind: len(facts) for kind, facts in kinds.items()}
            for split, kinds in sorted(load_facts().items())
        },
        **_artifact_fields(run_pipeline(records, digest, plan, folder / COMPOSITIONS)),
    }


def write_cards(out: Path, folder: Path) -> list[DataCard]:
    """Run the pipeline on every dataset and write ``<name>.json`` and the table ``README.md``.

    Args:
        out: Folder of the cards.
        folder: Folder of the artifacts.

    Returns:
        The cards in the order of the table.

    Raises:
        DataNotFoundError: A package is not installed.
    """
    out.mkdir(parents=True, exist_ok=True)
    cards = [dataset_card(spec, run_dataset(spec, folder)) for spec in DATASETS.values()]
    cards.append(composition_card(folder))
    for card in cards:
        text = json.dumps(card, indent=2, ensure_ascii=False) + "\n"
        (out / f"{card['name']}.json").write_text(text, encoding="utf-8")
    (out / "README.md").write_text(_cards_table(cards), encoding="utf-8")
    return cards


def _artifact_fields(artifacts: dict[str, Artifact]) -> DataCard:
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


def _cards_table(cards: list[DataCard]) -> str:
    lines = [
        "# Data cards",
        "",
        "Written by `make data-cards`, which runs the data pipeline on every dataset of this",
        "repository. Licences are the ones that the datasets' authors publish; the packages carry",
        "only HarmBench's. Sources are files of installed packages: they are neither downloaded",
        "nor committed.",
        "",
        (
            "| dataset | description | package | licence | bytes | raw | clean "
            "| train, dev, held-out | sha256 |"
        ),
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for card in cards:
        rows, splits = card["rows"], card["splits"]
        shares = ", ".join(str(splits.get(name, 0)) for name in ("train", "dev", "held_out"))
        lines.append(
            f"| [{card['name']}]({card['name']}.json) | {card['description']} | {card['package']} "
            f"{card['package_version']} | {card['licence']} | {card['bytes']} | {rows['raw']} | "
            f"{rows['clean']} | {shares} | `{card['source_sha256'][:12]}` |"
        )
    return "\n".join(lines) + "\n"
