"""Sites, artifacts and the bank."""

import json
from pathlib import Path

import pytest
import torch
from bem.adapters import AdapterBank, RowCodes, install_sites, read_adapter
from bem.adapters.site import BemSite
from bem.backbone import Backbone, load_backbone
from bem.controller import Controller
from bem.errors import (
    AdapterNotFoundError,
    ArtifactFormatError,
    ArtifactTamperedError,
    BackboneNotFoundError,
    BaseMismatchError,
    SlotsFullError,
)
from bem.testing import tiny_backbone
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.bem.adapters import FEATURE_LAYER, LAYERS, RANK, write_adapter


def site(rows: RowCodes, slots: int = 3, rank: int = 4) -> BemSite:
    """A site with random adapters."""
    made = BemSite(torch.nn.Linear(12, 10, bias=False), rank=rank, slots=slots, rows=rows)
    with torch.no_grad():
        made.A.normal_()
        made.B.normal_()
    return made


@given(seed=st.integers(0, 2**31), rows=st.integers(1, 5), steps=st.integers(1, 4))
def test_zero_code_is_the_base_layer_exactly(seed: int, rows: int, steps: int) -> None:
    """With codes of zero, or none, the output has the base's bits."""
    torch.manual_seed(seed)
    codes = RowCodes()
    layer = site(codes)
    x = torch.randn(rows, steps, 12)
    base = layer.base(x)

    assert torch.equal(layer(x), base)
    codes.set(torch.randint(0, 3, (rows, 2)), torch.zeros(rows, 2, 4))
    assert torch.equal(layer(x), base)
    codes.clear()
    assert torch.equal(layer(x), base)


@given(seed=st.integers(0, 2**31), adapters=st.integers(1, 3))
def test_each_row_gets_its_own_adapters(seed: int, adapters: int) -> None:
    """One batch equals the formula row by row, whatever the other rows use."""
    torch.manual_seed(seed)
    codes = RowCodes()
    layer = site(codes)
    x, slots, code = (
        torch.randn(4, 3, 12),
        torch.randint(0, 3, (4, adapters)),
        torch.randn(4, adapters, 4),
    )
    codes.set(slots, code)
    out = layer(x)

    for row in range(4):
        delta = sum(
            layer.B[slots[row, s]] @ torch.diag(code[row, s]) @ layer.A[slots[row, s]]
            for s in range(adapters)
        )
        wanted = x[row] @ (layer.base.weight + delta).T
        assert torch.allclose(out[row], wanted, atol=1e-4)


def test_token_codes_differ_along_the_sequence() -> None:
    """A code of ones at some tokens and zeros at others acts only where it is one."""
    codes = RowCodes()
    layer = site(codes)
    x = torch.randn(1, 2, 12)
    codes.set(torch.tensor([[1]]), torch.tensor([[[[1.0] * 4], [[0.0] * 4]]]))
    out = layer(x)

    assert not torch.allclose(out[0, 0], layer.base(x)[0, 0])
    assert torch.equal(out[0, 1], layer.base(x)[0, 1])


def test_codes_that_do_not_fit_are_refused() -> None:
    """Shapes are checked where they are set; a layer takes sites once."""
    with pytest.raises(ValueError, match="do not fit"):
        RowCodes().set(torch.zeros(2, 1, dtype=torch.int64), torch.zeros(3, 1, 4))
    model = tiny_backbone().model
    install_sites(model, layers=[3], rank=2, slots=1, rows=RowCodes())
    with pytest.raises(ValueError, match="already"):
        install_sites(model, layers=[3], rank=2, slots=1, rows=RowCodes())


def test_fresh_controller_is_plain_lora() -> None:
    """Code one, no uncertainty, no token refinement; chunks are smoothed."""
    controller = Controller(8, 4)
    features = torch.randn(3, 8)
    ones = torch.ones(3, 4)

    assert torch.equal(controller.prefix(features), ones)
    assert torch.equal(controller.uncertainty(features), torch.zeros(3, 1))
    assert torch.equal(controller.token(torch.randn(3, 5, 8), ones), torch.ones(3, 5, 4))
    assert torch.allclose(controller.chunk(features, 0 * ones), 0.3 * ones)


def test_uncertainty_shrinks_the_code_to_the_base() -> None:
    """The surer it is that it does not know, the closer the code comes to zero."""
    controller = Controller(8, 4)
    with torch.no_grad():
        controller.unsure.bias.fill_(20.0)

    assert controller.prefix(torch.randn(2, 8)).abs().max() < 1e-4


def bank(backbone: Backbone, slots: int = 2) -> AdapterBank:
    """A bank for the tiny model."""
    return AdapterBank(backbone, layers=LAYERS, rank=RANK, slots=slots, feature_layer=FEATURE_LAYER)


def test_artifact_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    """Card and tensors survive; the version is a function of both."""
    backbone = tiny_backbone()
    card = write_adapter(tmp_path, backbone, "alpha", seed=1)
    adapter = read_adapter(tmp_path / "alpha", base_digest=backbone.digest)

    assert adapter.card == card
    assert len(adapter.factors) == 4
    assert adapter.version == read_adapter(tmp_path / "alpha", base_digest=backbone.digest).version
    # A service runs as another user.
    plain = tmp_path / "plain"
    plain.write_text("")
    files = [path.stat().st_mode for path in (tmp_path / "alpha").iterdir()]
    assert set(files) == {plain.stat().st_mode}
    write_adapter(tmp_path, backbone, "alpha", seed=2)
    assert adapter.version != read_adapter(tmp_path / "alpha", base_digest=backbone.digest).version


def test_changed_or_foreign_artifact_is_refused(tmp_path: Path) -> None:
    """Tampered tensors, another base, missing files and unknown card fields each say so."""
    backbone = tiny_backbone()
    write_adapter(tmp_path, backbone, "alpha", seed=1)
    folder = tmp_path / "alpha"
    with pytest.raises(BaseMismatchError, match="was trained for"):
        read_adapter(folder, base_digest="f" * 64)
    tensors = folder / "adapter.safetensors"
    data = bytearray(tensors.read_bytes())
    data[-1] ^= 1
    tensors.write_bytes(bytes(data))
    with pytest.raises(ArtifactTamperedError, match="its card says"):
        read_adapter(folder, base_digest=backbone.digest)
    tensors.unlink()
    with pytest.raises(ArtifactFormatError, match=r"adapter\.safetensors"):
        read_adapter(folder, base_digest=backbone.digest)
    card = json.loads((folder / "card.json").read_text())
    (folder / "card.json").write_text(json.dumps({**card, "colour": "red"}))
    with pytest.raises(ArtifactFormatError, match="colour"):
        read_adapter(folder, base_digest=backbone.digest)
    with pytest.raises(ArtifactFormatError, match=r"card\.json"):
        read_adapter(tmp_path, base_digest=backbone.digest)


def test_adapter_of_lower_rank_fits_and_of_higher_does_not(tmp_path: Path) -> None:
    """Lower ranks are padded with zeros."""
    backbone = tiny_backbone()
    write_adapter(tmp_path, backbone, "low", seed=1, rank=RANK - 1)
    write_adapter(tmp_path, backbone, "high", seed=1, rank=RANK + 1)
    made = bank(backbone)

    assert made.load(tmp_path / "low").rank == RANK - 1
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


def test_missing_backbone_is_named(tmp_path: Path) -> None:
    """The error says what was looked for."""
    with pytest.raises(BackboneNotFoundError, match="nowhere"):
        load_backbone("nowhere", cache=tmp_path)
