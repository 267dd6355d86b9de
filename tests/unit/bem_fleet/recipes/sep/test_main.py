"""The recipe trains an arm on books, resumes, thaws a finished model, and reports on dev books."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from bem_fleet.data.books import Book
from bem_fleet.recipes.sep import __main__ as recipe
from bem_fleet.recipes.sep.__main__ import book_characters, main

SENTENCES = tuple(f"The ship number {number} sailed to the north." for number in range(30))
SIZES = ["--width", "16", "--layers", "4", "--rows", "8", "--length", "64", "--excerpts", "6"]


@pytest.fixture(autouse=True)
def books(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use one made book a split instead of the archives."""
    monkeypatch.setattr(recipe, "load_books", lambda split, _: [Book(split, split, SENTENCES)])


def run(folder: Path, arm: str, steps: int, *more: str) -> dict[str, Any]:
    """Train an arm for a number of steps and return its report."""
    words = ["--arm", arm, "--out", str(folder), "--characters", str(steps * 8 * 64), *SIZES, *more]
    main(words)
    report: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return report


@pytest.mark.slow
def test_arm_is_trained_scored_and_thawed(tmp_path: Path) -> None:
    """Scores are of both texts at three lengths; a clamped run starts from the model."""
    report = run(tmp_path / "lm", "lm", 30)
    again = run(tmp_path / "lm", "lm", 30)
    thawed = run(tmp_path / "sep", "sep", 2, "--clamp", "hard", "--initial", str(tmp_path / "lm"))

    assert set(report["scores"]) == {
        f"{name}_{length}" for name in ("clean", "fresh_key") for length in (64, 128, 256)
    }
    clean, ciphered = (report["scores"][f"{name}_64"] for name in ("clean", "fresh_key"))
    assert clean["bits_per_character"] < ciphered["bits_per_character"]
    assert again == report
    assert thawed["opened"] == 1
    before = thawed["scores"]["clean_64"]["bits_per_character"]
    assert before == pytest.approx(clean["bits_per_character"], abs=0.5)


@pytest.mark.slow
def test_lexinvariant_arm_is_scored_with_random_embeddings(tmp_path: Path) -> None:
    """Such a model reads clean and ciphered text alike, up to the draw of the embeddings."""
    scores = run(tmp_path, "lexinvariant", 1)["scores"]
    clean, ciphered = (
        scores[f"{name}_64"]["bits_per_character"] for name in ("clean", "fresh_key")
    )

    assert clean == pytest.approx(ciphered, abs=0.5)


def test_books_are_one_text_of_ids() -> None:
    """The ids are those of the sentences, joined by spaces."""
    ids = book_characters("train")

    assert ids.dtype == torch.int64
    assert len(ids) == len(" ".join(SENTENCES))
    assert int(ids[0]) == ord("T") - 31
