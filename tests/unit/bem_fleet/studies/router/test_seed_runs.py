"""Tests of the training seeds of the router's study."""

from pathlib import Path

import pytest
from bem.errors import EvaluationError
from bem.testing import tiny_backbone
from bem_fleet.studies.router import seed_runs
from bem_fleet.studies.router.seed_runs import RouterFolders, open_seed_runs

from tests.unit.bem_fleet.studies.router.test_main import write_seed


def folders_of(folder: Path) -> RouterFolders:
    """Return the artifacts that ``write_seed`` wrote."""
    return RouterFolders(folder, {"monolith-chain": folder / "monolith-chain"}, folder / "policy")


@pytest.fixture
def one_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RouterFolders:
    """Artifacts of seed 3, and tiny base models."""
    monkeypatch.setattr(seed_runs, "load_backbone", lambda **_: tiny_backbone(context_tokens=2048))
    return folders_of(write_seed(tmp_path / "3", 3))


def test_a_seed_has_all_its_adapters(one_seed: RouterFolders, tmp_path: Path) -> None:
    """The engine serves the tasks and the monolith; the policy names the seed."""
    with open_seed_runs([one_seed], tmp_path) as (run,):
        loaded = {one.name for one in run.engine.adapters()}

        assert loaded == {"retrieve", "reason", "formalize", "general", "monolith-chain"}
        assert run.monoliths == {"monolith-chain": "monolith-chain"}
        assert run.seed == 3


def test_a_seed_counts_once(one_seed: RouterFolders, tmp_path: Path) -> None:
    """The same seed twice would make the interval over seeds narrower than it is."""
    with (
        pytest.raises(EvaluationError, match=r"seeds \[3, 3\] repeat"),
        open_seed_runs([one_seed, one_seed], tmp_path),
    ):
        raise AssertionError
