"""Data cards."""

import json
from pathlib import Path

from bem_fleet.data.cards import COMPOSITIONS, composition_card, dataset_card
from bem_fleet.data.datasets import DATASETS
from bem_fleet.data.pipeline import run_dataset, source_digest

CARDS = Path(__file__).resolve().parents[4] / "results/data_cards"


def test_every_set_has_a_committed_card_that_still_holds() -> None:
    """Each card names package, licence and the hash of the very files that are installed."""
    for spec in DATASETS.values():
        card = json.loads((CARDS / f"{spec.name}.json").read_text())

        assert card["source_sha256"] == source_digest(spec)
        assert (card["licence"], card["package"]) == (spec.licence, spec.package)
    named = {path.stem for path in CARDS.glob("*.json")}
    assert named == {*DATASETS, COMPOSITIONS}


def test_committed_card_is_what_the_pipeline_makes(tmp_path: Path) -> None:
    """Running the pipeline again gives the card bit for bit, artifacts' hashes included."""
    for name in ("harmbench", "truthful-qa"):
        spec = DATASETS[name]

        assert dataset_card(spec, run_dataset(spec, tmp_path)) == json.loads(
            (CARDS / f"{name}.json").read_text()
        )


def test_committed_card_of_generated_questions_still_holds(tmp_path: Path) -> None:
    """The generator gives the same questions, splits and artifacts, bit for bit."""
    card = composition_card(tmp_path)

    assert card == json.loads((CARDS / f"{COMPOSITIONS}.json").read_text())
    assert set(card["splits"]) == {"train", "dev", "held_out"}
