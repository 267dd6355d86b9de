"""Tests of the safety overlay: scaled by strength and value, for each request of a batch."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from bem.adapters import AdapterBank, read_adapter
from bem.engine import GenerationRequest, LLMEngine, Sampling
from bem.errors import ArtifactFormatError, ArtifactTamperedError, BaseMismatchError
from bem.safety import orthogonality, read_safety
from bem.safety.artifact import TENSORS_FILE
from bem.safety.overlay import load_overlay
from bem.testing import tiny_backbone

from tests.support.random_adapters import FEATURE_LAYER, LAYERS, RANK, write_adapter
from tests.support.random_safety_adapters import write_safety
from tests.unit.bem.engine.engines import DeltaReader

REQUEST = GenerationRequest(
    prompt_ids=tuple(b"how do I ..."), sampling=Sampling(temperature=0), max_tokens=12
)


def worker(folder: Path, *, threshold: float = 0.0) -> LLMEngine:
    """Return a started engine with a safety adapter and an adapter."""
    backbone = tiny_backbone()
    write_safety(folder / "safety", backbone, threshold=threshold)
    write_adapter(folder, backbone, "alpha", seed=1, size=4.0)
    bank = AdapterBank(backbone, layers=LAYERS, rank=RANK, slots=3, feature_layer=FEATURE_LAYER)
    overlay = load_overlay(bank, folder / "safety", base_digest=backbone.digest)
    bank.load(folder / "alpha")
    made = LLMEngine(backbone, bank, max_sequences=4, safety=overlay)
    made.start()
    return made


def texts(engine: LLMEngine, *requests: GenerationRequest) -> list[str]:
    """Return the texts of requests that run together."""
    readers = [DeltaReader() for _ in requests]
    for request, reader in zip(requests, readers, strict=True):
        engine.submit(request, reader.arrived.put)
    return [reader.text() for reader in readers]


def test_strength_zero_is_the_base_model_even_beside_others(tmp_path: Path) -> None:
    """A request at strength 0 gets the base model's text, alone and beside others at strength 1."""
    engine = worker(tmp_path)
    plain = LLMEngine(tiny_backbone())
    plain.start()
    alone = texts(engine, REQUEST)
    mixed = texts(
        engine,
        REQUEST,
        replace(REQUEST, safety_strength=1.0),
        replace(REQUEST, safety_strength=0.5),
    )

    assert alone == texts(plain, REQUEST) == mixed[:1]
    assert mixed[1] != mixed[0]
    engine.close(drain=True)
    plain.close(drain=True)


def test_request_below_the_threshold_is_the_base_model_at_any_strength(tmp_path: Path) -> None:
    """A value of zero is not changed by the safety strength."""
    engine = worker(tmp_path, threshold=9.0)
    below_threshold = texts(engine, replace(REQUEST, safety_strength=1.0))

    assert below_threshold == texts(engine, REQUEST)
    engine.close(drain=True)


def test_safety_adapter_combines_with_an_adapter(tmp_path: Path) -> None:
    """One request uses both, with the same text alone and in a batch."""
    engine = worker(tmp_path)
    both = replace(REQUEST, adapter="alpha", safety_strength=1.0)
    adapted = replace(REQUEST, adapter="alpha")
    alone = texts(engine, both)
    together = texts(engine, adapted, both, replace(REQUEST, safety_strength=1.0))

    assert together[1:2] == alone
    assert len({*together}) == 3
    engine.close(drain=True)


def test_later_adapters_are_projected_outside_the_basis(tmp_path: Path) -> None:
    """An adapter that was trained in no slice is projected when it is loaded."""
    backbone = tiny_backbone()
    write_safety(tmp_path / "safety", backbone)
    write_adapter(tmp_path, backbone, "alpha", seed=1)
    bank = AdapterBank(backbone, layers=LAYERS, rank=RANK, slots=3, feature_layer=FEATURE_LAYER)
    load_overlay(bank, tmp_path / "safety", base_digest=backbone.digest)
    slot = bank.load(tmp_path / "alpha").slot
    bases = read_safety(tmp_path / "safety", base_digest=backbone.digest).site_bases()

    for path, q in bases.items():
        assert orthogonality(q, backbone.model.get_submodule(path).B[slot]) > 1 - 1e-5
    with pytest.raises(ValueError, match="before loading adapters"):
        bank.reserve_subspace(bases)


def test_adapter_without_a_basis_reserves_nothing(tmp_path: Path) -> None:
    """If the safety adapter may write everywhere, other adapters are loaded unprojected."""
    backbone = tiny_backbone()
    write_safety(tmp_path / "safety", backbone, basis=32)
    write_adapter(tmp_path, backbone, "alpha", seed=1)
    bank = AdapterBank(backbone, layers=LAYERS, rank=RANK, slots=3, feature_layer=FEATURE_LAYER)
    load_overlay(bank, tmp_path / "safety", base_digest=backbone.digest)
    slot = bank.load(tmp_path / "alpha").slot
    adapter = read_adapter(tmp_path / "alpha", base_digest=backbone.digest)

    for path, (_, b) in adapter.factors.items():
        assert torch.allclose(backbone.model.get_submodule(path).B[slot], b.float(), atol=1e-6)


def test_request_strength_is_strength_times_value(tmp_path: Path) -> None:
    """Linear in the strength, and exactly zero at zero."""
    backbone = tiny_backbone()
    write_safety(tmp_path, backbone)
    bank = AdapterBank(backbone, layers=LAYERS, rank=RANK, slots=1, feature_layer=FEATURE_LAYER)
    overlay = load_overlay(bank, tmp_path, base_digest=backbone.digest)
    features = torch.randn(32)

    assert overlay.request_strength(features, 0.0) == 0.0
    full = overlay.request_strength(features, 1.0)
    assert full == pytest.approx(0.5)
    assert overlay.request_strength(features, 0.3) == pytest.approx(0.3 * full)


def test_adapter_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    """Tampered tensors, another base, another feature layer and too high a rank are named."""
    backbone = tiny_backbone()
    write_safety(tmp_path / "good", backbone)
    with pytest.raises(BaseMismatchError, match="was trained for base"):
        read_safety(tmp_path / "good", base_digest="f" * 64)
    other = AdapterBank(backbone, layers=LAYERS, rank=RANK, slots=1, feature_layer=1)
    with pytest.raises(ArtifactFormatError, match="layer 0"):
        load_overlay(other, tmp_path / "good", base_digest=backbone.digest)
    write_safety(tmp_path / "wide", tiny_backbone(), rank=RANK + 1)
    bank = AdapterBank(
        tiny_backbone(), layers=LAYERS, rank=RANK, slots=1, feature_layer=FEATURE_LAYER
    )
    with pytest.raises(ArtifactFormatError, match="rank 5"):
        load_overlay(bank, tmp_path / "wide", base_digest=backbone.digest)
    tensors = tmp_path / "good" / TENSORS_FILE
    tensors.write_bytes(tensors.read_bytes()[:-1] + b"\x01")
    with pytest.raises(ArtifactTamperedError, match="its card says"):
        read_safety(tmp_path / "good", base_digest=backbone.digest)
    with pytest.raises(ArtifactFormatError, match=r"no safety\.json"):
        read_safety(tmp_path, base_digest=backbone.digest)
