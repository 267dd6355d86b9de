"""Tests of the adapter bank: loading, leases, eviction and projection."""

from pathlib import Path

import pytest
import torch
from bem.adapters.bank import AdapterBank
from bem.backbone import Backbone
from bem.errors import AdapterNotFoundError, ArtifactFormatError, SlotsFullError
from bem.testing import tiny_backbone

from tests.support.random_adapters import FEATURE_LAYER, LAYERS, RANK, write_adapter


def bank(backbone: Backbone, slots: int = 2, max_loaded: int = 1024) -> AdapterBank:
    """Return a bank for the tiny model."""
    return AdapterBank(
        backbone,
        layers=LAYERS,
        rank=RANK,
        slots=slots,
        feature_layer=FEATURE_LAYER,
        max_loaded=max_loaded,
    )


def test_worked_example_of_the_module_docstring(tmp_path: Path) -> None:
    """Free slots fill at once, idle adapters are evicted, leased versions keep their slot."""
    backbone = tiny_backbone()
    for seed, name in enumerate("abc"):
        write_adapter(tmp_path, backbone, name, seed=seed)
    made = bank(backbone)
    slots = [made.load(tmp_path / name).slot for name in "abc"]
    assert slots == [1, 0, None]

    old = made.acquire("a")
    made.acquire("c")
    assert (old.slot, made.find("c").slot, made.find("b").slot) == (1, 0, None)
    with pytest.raises(SlotsFullError, match="all 2 slots"):
        made.acquire("b")

    write_adapter(tmp_path, backbone, "a", seed=9)
    new = made.load(tmp_path / "a")
    assert (new.slot, old.slot) == (None, 1)
    made.release(old)
    assert old.slot is None
    assert made.acquire("a") is new
    assert new.slot == 1
    assert made.leases() == 2
    assert made.page_ins == 4


def test_lower_rank_is_padded_and_a_higher_rank_is_refused(tmp_path: Path) -> None:
    """Unused ranks of a slot are zero, whatever the slot held before."""
    backbone = tiny_backbone()
    write_adapter(tmp_path, backbone, "full", seed=1)
    write_adapter(tmp_path, backbone, "low", seed=1, rank=RANK - 1)
    write_adapter(tmp_path, backbone, "high", seed=1, rank=RANK + 1)
    made = bank(backbone, slots=1)
    made.load(tmp_path / "full")
    low = made.load(tmp_path / "low")
    assert low.rank == RANK - 1
    made.acquire("low")
    site = backbone.model.get_submodule("model.layers.2.self_attn.o_proj")

    assert low.slot == 0
    assert not site.A[0, RANK - 1 :].any()
    assert not site.B[0, :, RANK - 1 :].any()
    with pytest.raises(ArtifactFormatError, match="rank"):
        made.load(tmp_path / "high")


def test_slot_is_free_when_the_last_lease_ends(tmp_path: Path) -> None:
    """An unloaded adapter keeps its slot while a request uses it."""
    backbone = tiny_backbone()
    write_adapter(tmp_path, backbone, "alpha", seed=1)
    made = bank(backbone, slots=1)
    made.load(tmp_path / "alpha")
    lease = made.acquire("alpha")
    made.unload("alpha")
    with pytest.raises(AdapterNotFoundError):
        made.acquire("alpha")
    made.load(tmp_path / "alpha")
    with pytest.raises(SlotsFullError, match="all 1 slots"):
        made.acquire("alpha")
    made.release(lease)

    assert made.acquire("alpha").slot == 0
    assert lease.slot is None


def test_limits_of_the_bank_are_named(tmp_path: Path) -> None:
    """Too many adapters, another feature layer, unknown sites and wrong widths are errors."""
    backbone = tiny_backbone()
    for seed, name in enumerate("ab"):
        write_adapter(tmp_path, backbone, name, seed=seed)
    made = bank(backbone, slots=1, max_loaded=1)
    made.load(tmp_path / "a")
    made.load(tmp_path / "a")
    with pytest.raises(SlotsFullError, match="1 adapters are loaded, the limit"):
        made.load(tmp_path / "b")
    with pytest.raises(ArtifactFormatError, match="no site of this bank"):
        made.pin(
            "x", {"model.layers.0.mlp.down_proj": (torch.ones(1, 64), torch.ones(32, 1))}, scale=1
        )
    wrong = {"model.layers.2.mlp.down_proj": (torch.ones(1, 8), torch.ones(32, 1))}
    with pytest.raises(
        ArtifactFormatError, match="maps 8 to 32 dimensions; the site maps 64 to 32"
    ):
        made.pin("x", wrong, scale=1)
    with pytest.raises(SlotsFullError, match="slots hold adapters"):
        made.pin("x", {}, scale=1)
    with pytest.raises(ValueError, match="not below the sites"):
        AdapterBank(tiny_backbone(), layers=LAYERS, rank=1, slots=1, feature_layer=2)


def test_pinned_factors_are_never_evicted(tmp_path: Path) -> None:
    """A pinned slot holds its factors and scale while other adapters come and go."""
    backbone = tiny_backbone()
    for seed, name in enumerate("ab"):
        write_adapter(tmp_path, backbone, name, seed=seed)
    made = bank(backbone)
    path = "model.layers.2.mlp.down_proj"
    slot = made.pin("safety", {path: (torch.ones(1, 64), torch.ones(32, 1))}, scale=0.5)
    for name in "abab":
        made.load(tmp_path / name)
        made.release(made.acquire(name))
    site = backbone.model.get_submodule(path)

    assert slot == 0
    assert site.A[slot, 0].eq(1).all()
    assert not site.A[slot, 1:].any()
    assert site.scale[slot] == 0.5
    assert {one.slot for one in made.adapters()} == {1, None}


def test_for_artifact_takes_the_layout_of_a_card(tmp_path: Path) -> None:
    """Layers, rank and feature layer come from the card; adapters are listed by name."""
    backbone = tiny_backbone()
    for seed, name in enumerate("ba"):
        write_adapter(tmp_path, backbone, name, seed=seed, rank=3, constant_code=name == "a")
    made = AdapterBank.for_artifact(backbone, tmp_path / "a", slots=2)
    for name in "ba":
        made.load(tmp_path / name)

    assert (made.rank, made.first_layer, made.feature_layer) == (3, min(LAYERS), FEATURE_LAYER)
    assert [one.name for one in made.adapters()] == ["a", "b"]
    assert [one.constant_code for one in made.adapters()] == [True, False]
    assert made.get("c") is None
    with pytest.raises(AdapterNotFoundError, match="loaded: a, b"):
        made.find("c")


def test_preallocated_factors_never_move(tmp_path: Path) -> None:
    """Room for twice the slots is allocated, at addresses that a CUDA graph can keep."""
    backbone = tiny_backbone()
    write_adapter(tmp_path, backbone, "a", seed=1)
    made = bank(backbone)
    assert made.preallocate_concatenated(torch.float32) == 4
    site = backbone.model.get_submodule("model.layers.2.mlp.down_proj")
    down, _ = site.concatenate((0, 1), torch.float32)
    made.load(tmp_path / "a")
    made.factors.concatenate((1, 0), made.row_codes)

    assert site.concatenate((1, 0), torch.float32)[0].data_ptr() == down.data_ptr()
    assert torch.equal(down[:RANK], site.A[1])


def test_later_adapters_are_projected_outside_the_reserved_subspace(tmp_path: Path) -> None:
    """The output factor of a loaded adapter has no component along the reserved directions."""
    backbone = tiny_backbone()
    write_adapter(tmp_path, backbone, "a", seed=1)
    made = bank(backbone)
    path = "model.layers.2.mlp.down_proj"
    q = torch.linalg.qr(torch.randn(32, 4)).Q
    made.reserve_subspace({path: q})
    slot = made.load(tmp_path / "a").slot

    assert (q.T @ backbone.model.get_submodule(path).B[slot]).abs().max() < 1e-5
    with pytest.raises(ValueError, match="before loading adapters"):
        made.reserve_subspace({path: q})
