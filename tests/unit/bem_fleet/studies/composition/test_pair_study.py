"""Tests of the pair study on the tiny model."""

import math

import pytest
from bem.adapters.bank import AdapterBank
from bem.safety.overlay import load_overlay
from bem.testing import tiny_backbone
from bem_fleet.data.passage_qa import PassageQuestion
from bem_fleet.studies.composition.pair_study import SAFETY, PairStudy

from tests.support.random_adapters import FEATURE_LAYER, LAYERS, RANK, write_adapter
from tests.support.random_safety_adapters import write_safety

QUESTIONS = [
    PassageQuestion(str(n), f"passage {n}: it is {n}.", "what is it?", str(n)) for n in range(6)
]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> PairStudy:
    """A study of two random adapters and a random safety adapter."""
    folder = tmp_path_factory.mktemp("adapters")
    backbone = tiny_backbone()
    bank = AdapterBank(backbone, layers=LAYERS, rank=RANK, slots=4, feature_layer=FEATURE_LAYER)
    write_safety(folder / "safety", backbone)
    overlay = load_overlay(bank, folder / "safety", base_digest=backbone.digest)
    for seed, name in enumerate(("alpha", "beta")):
        write_adapter(folder, backbone, name, seed=seed)
        bank.load(folder / name)
    return PairStudy(backbone, bank, overlay, QUESTIONS)


def test_a_pair_has_interference_overlap_and_quality_by_radius(study: PairStudy) -> None:
    """Without a bound the row is the interference itself; a tiny radius scales every code."""
    report = study.measure("alpha", "beta", [0.01, math.inf])
    bounded, free = report["tau"]

    assert report["interference"]["units"] == len(QUESTIONS)
    assert free["difference"] == report["interference"]
    assert report["interference"] != report["interference_without_projection"]
    assert 0 < report["overlap"]["mean"] <= report["overlap"]["largest"] <= 1 + 1e-6
    assert (bounded["scaled_share"], free["scaled_share"]) == (1.0, 0.0)
    assert bounded["mean_log_probability"] != free["mean_log_probability"]


def test_the_safety_adapter_shares_no_direction(study: PairStudy) -> None:
    """The bank keeps every adapter outside the reserved subspace."""
    report = study.measure("alpha", SAFETY, [1.0])

    assert report["overlap"]["largest"] < 1e-4
    assert report["interference"] == report["interference_without_projection"]
    assert report["tau"] == []
