"""Comparison of two models: equal models do not differ, and few items have no interval."""

from pathlib import Path

import pytest
from bem.errors import EvaluationError
from bem.testing import tiny_backbone
from bem_fleet.data.instruction_files import Instruction
from bem_fleet.recipes.own_data import comparison

from tests.support.random_adapters import write_adapter

ITEMS = [Instruction(n, (("user", f"question {n}"),), f"answer {n}") for n in range(12)]


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "load_backbone", lambda *_, **__: tiny_backbone())


def test_differences_are_those_of_the_models(tmp_path: Path) -> None:
    """A model against itself has none; an adapter has its own likelihoods."""
    write_adapter(tmp_path, tiny_backbone(), "alpha", seed=1)
    same = comparison.ComparedModels("tiny", tmp_path, comparison.BASE)
    other = comparison.ComparedModels("tiny", tmp_path, str(tmp_path / "alpha"))
    equal = comparison.compare_models(same, ITEMS, max_tokens=4, resamples=200)
    found = comparison.compare_models(other, ITEMS, max_tokens=4, resamples=200)

    assert equal["metrics"]["logprob_per_token"]["estimate"] == 0
    row = found["metrics"]["logprob_per_token"]
    assert row["estimate"] != 0
    assert row["baseline"] == equal["metrics"]["logprob_per_token"]["model"]
    assert len(found["scores"]["model"]["f1"]) == 12
    assert "none" in comparison.render_comparison(equal) or "+0.0000" in (
        comparison.render_comparison(equal)
    )


def test_few_items_are_refused(tmp_path: Path) -> None:
    """An interval of nine would say nothing."""
    models = comparison.ComparedModels("tiny", tmp_path, comparison.BASE)
    with pytest.raises(EvaluationError, match="9 items"):
        comparison.compare_models(models, ITEMS[:9])
