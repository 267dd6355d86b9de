"""Tests of the evaluation of an adapter against its base."""

from pathlib import Path

import pytest
from bem.testing import tiny_backbone
from bem_fleet.data.passage_qa import PassageQuestion
from bem_fleet.recipes.passage_qa.evaluate import SYSTEMS, evaluate

from tests.support.random_adapters import write_adapter

ITEMS = [PassageQuestion(f"k{i}", f"p{i}", f"who {i}?", f"p{i}") for i in range(3)]


def test_every_item_has_scores_of_every_system(tmp_path: Path) -> None:
    """Figures are means over the items; differences compare the adapter with each baseline."""
    write_adapter(tmp_path, tiny_backbone(), "qa", seed=3, size=4.0)
    found = evaluate(tiny_backbone(context_tokens=2048), tmp_path / "qa", ITEMS, ITEMS[:1])

    assert set(found["scores"]) == set(found["figures"]) == set(SYSTEMS)
    assert found["items"] == ["k0", "k1", "k2"]
    assert all(len(rows) == 3 for rows in found["scores"].values())
    assert len(found["differences"]) == 6
    assert all(one["n_items"] == 3 for one in found["differences"].values())
    rows = found["scores"]["base, lenient"]
    mean = sum(row["f1"] for row in rows) / 3
    assert found["figures"]["base, lenient"]["f1"] == pytest.approx(mean, abs=1e-4)
    assert [row["reply"] for row in rows] == [
        row["reply"] for row in found["scores"]["base, strict"]
    ]
    assert rows[0]["reply"] != found["scores"]["adapter, strict"][0]["reply"]
