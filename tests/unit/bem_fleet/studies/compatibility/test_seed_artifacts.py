"""Artifacts of training seeds."""

from pathlib import Path

import pytest
from bem.errors import EvaluationError
from bem_fleet.studies.compatibility.seed_artifacts import SeedArtifacts, check_seeds

from tests.support.compatibility_seed import write_seed


@pytest.mark.slow
def test_what_is_missing_is_said(tmp_path: Path) -> None:
    """A mission without an artifact is named with what it does instead."""
    full, bare = write_seed(tmp_path / "a"), write_seed(tmp_path / "b", 1, learned=False)

    assert set(full.absences()) == {"online", "memory"}
    assert set(bare.absences()) == {"router", "online", "safety", "sep", "memory"}
    assert "fixed plan" in bare.absences()["router"]
    assert set(full.versions()) - set(bare.versions()) == {"policy", "safety", "sep"}


def test_without_adapters_the_base_model_does_the_steps(tmp_path: Path) -> None:
    """An empty folder is a seed of which nothing was trained."""
    seed = SeedArtifacts(0, tmp_path)

    assert seed.versions() == {}
    assert "retrieve" in seed.absences()["router"]
    assert "no modules" in seed.absences()["memory"]
    assert "no reader" in seed.absences()["memory"]


@pytest.mark.slow
def test_a_copy_is_no_further_seed(tmp_path: Path) -> None:
    """Intervals over seeds are worth nothing if two of them are one training."""
    one, two = write_seed(tmp_path / "a"), write_seed(tmp_path / "b", 1)
    check_seeds([one, two])

    with pytest.raises(EvaluationError, match="earlier seed"):
        check_seeds([one, SeedArtifacts(1, one.folder)])
    with pytest.raises(EvaluationError, match="differ in"):
        check_seeds([one, write_seed(tmp_path / "c", 2, learned=False)])
