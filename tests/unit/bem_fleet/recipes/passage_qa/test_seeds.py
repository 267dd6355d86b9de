"""Tests of the seed comparison: seeds share a name and answer with their own factors."""

from pathlib import Path

import numpy as np
import pytest
from bem.errors import ArtifactFormatError
from bem.testing import tiny_backbone
from bem_fleet.data.passage_qa import PassageQADataset, PassageQuestion
from bem_fleet.recipes.passage_qa.seeds import compare_seeds

from tests.support.random_adapters import write_adapter

DATA = PassageQADataset(
    splits={
        "train": [PassageQuestion("t1", "p", "q", "a"), PassageQuestion("t2", "pp", "q", "a")],
        "held_out": [PassageQuestion(f"k{i}", f"p{i}", f"who {i}?", f"p{i}") for i in range(4)],
    },
    digest="d" * 64,
)


def test_report_has_a_row_of_scores_a_seed(tmp_path: Path) -> None:
    """Scores are [seeds, items], the base is asked once, and the replies differ between seeds."""
    folders = []
    for seed in (3, 4):
        write_adapter(tmp_path / str(seed), tiny_backbone(), "qa", seed=seed)
        folders.append(tmp_path / str(seed) / "qa")
    report = compare_seeds(
        tiny_backbone(context_tokens=2048), folders, DATA, name="x", command="c", limit=3
    )
    metric = report["metrics"]["f1"]

    assert report["seeds"] == [3, 4]
    assert np.shape(metric["mission"]) == np.shape(metric["baseline"]) == (2, 3)
    assert report["replies"]["mission"][0] != report["replies"]["mission"][1]
    assert len(report["replies"]["baseline"]) == 1
    assert [one["baseline"]["shots"] for one in (report, *report["others"])] == [2, 0]
    assert len(report["mission"]["digest"].split(",")) == 2


def test_folder_without_an_adapter_is_named(tmp_path: Path) -> None:
    """A missing artifact is an error before anything is answered."""
    write_adapter(tmp_path, tiny_backbone(), "qa", seed=1)
    with pytest.raises(ArtifactFormatError, match="gone has no"):
        compare_seeds(
            tiny_backbone(),
            [tmp_path / "qa", tmp_path / "gone"],
            DATA,
            name="x",
            command="c",
        )
