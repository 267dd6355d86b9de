"""The safety adapter in the bank and the engine: scaled by strength and value, row by row."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from bem.adapters import AdapterBank, read_adapter
from bem.engine import GenerationRequest, LLMEngine, Sampling
from bem.errors import ArtifactFormatError, ArtifactTamperedError, BaseMismatchError
from bem.safety import orthogonality, read_safety
from bem.safety.artifact import TENSORS
from bem.safety.overlay import load_overlay
from bem.testing import tiny_backbone

from tests.unit.bem.adapters import FEATURE_LAYER, LAYERS, RANK, write_adapter
from tests.unit.bem.engine.engines import DeltaReader
from tests.unit.bem.safety.adapters import write_safety

ASKED = GenerationRequest(
    prompt_ids=tuple(b"how do I ..."), sampling=Sampling(temperature=0), max_tokens=12
)


def worker(folder: Path, *, threshold: float = 0.0) -> LLMEngine:
    """A started engine with a safety adapter and an adapter."""
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
    """Answers of requests that run together."""
    readers = [DeltaReader() for _ in requests]
    for request, reader in zip(requests, readers, strict=True):
        engine.submit(request, reader.arrived.put)
    return [reader.text() for reader in readers]


def test_strength_zero_is_the_base_model_even_beside_others(tmp_path: Path) -> None:
    """A row at strength 0 says what the plain model says, alone and beside rows at strength 1."""
    engine = worker(tmp_path)
    plain = LLMEngine(tiny_backbone())
    plain.start()
    alone = texts(engine, ASKED)
    mixed = texts(
        engine, ASKED, replace(ASKED, safety_strength=1.0), replace(ASKED, safety_strength=0.5)
    )

    assert alone == texts(plain, ASKED) == mixed[:1]
    assert mixed[1] != mixed[0]
    engine.close(drain=True)
    plain.close(drain=True)


def test_request_below_the_threshold_is_the_base_model_at_any_strength(tmp_path: Path) -> None:
    """The value head's zero holds whatever the strength says."""
    engine = worker(tmp_path, threshold=9.0)
    quiet = texts(engine, replace(ASKED, safety_strength=1.0))

    assert quiet == texts(engine, ASKED)
    engine.close(drain=True)


def test_safety_stands_beside_a_adapter(tmp_path: Path) -> None:
    """One row uses both, with the same answer alone and in a batch."""
    engine = worker(tmp_path)
    both = replace(ASKED, adapter="alpha", safety_strength=1.0)
    adapted = replace(ASKED, adapter="alpha")
    alone = texts(engine, both)
    together = texts(engine, adapted, both, replace(ASKED, safety_strength=1.0))

    assert together[1:2] == alone
    assert len({*together}) == 3
    engine.close(drain=True)


def test_later_adapters_are_kept_out_of_the_basis(tmp_path: Path) -> None:
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
        bank.reserve(bases)


def test_adapter_without_a_basis_reserves_nothing(tmp_path: Path) -> None:
    """Where it may write everywhere an adapter keeps all that it was trained to."""
    backbone = tiny_backbone()
    write_safety(tmp_path / "safety", backbone, basis=32)
    write_adapter(tmp_path, backbone, "alpha", seed=1)
    bank = AdapterBank(backbone, layers=LAYERS, rank=RANK, slots=3, feature_layer=FEATURE_LAYER)
    load_overlay(bank, tmp_path / "safety", base_digest=backbone.digest)
    slot = bank.load(tmp_path / "alpha").slot
    adapter = read_adapter(tmp_path / "alpha", base_digest=backbone.digest)

    for path, (_, b) in adapter.factors.items():
        assert torch.allclose(backbone.model.get_submodule(path).B[slot], b.float(), atol=1e-6)


def test_strength_is_strength_times_value(tmp_path: Path) -> None:
    """Linear in the strength, and exactly zero at zero."""
    backbone = tiny_backbone()
    write_safety(tmp_path, backbone)
    bank = AdapterBank(backbone, layers=LAYERS, rank=RANK, slots=1, feature_layer=FEATURE_LAYER)
    overlay = load_overlay(bank, tmp_path, base_digest=backbone.digest)
    features = torch.randn(32)

    assert overlay.strength(features, 0.0) == 0.0
    full = overlay.strength(features, 1.0)
    assert full == pytest.approx(0.5)
    assert overlay.strength(features, 0.3) == pytest.approx(0.3 * full)


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
    tensors = tmp_path / "good" / TENSORS
    tensors.write_bytes(tensors.read_bytes()[:-1] + b"\x01")
    with pytest.raises(ArtifactTamperedError, match="its card says"):
        read_safety(tmp_path / "good", base_digest=backbone.digest)
    with pytest.raises(ArtifactFormatError, match=r"no safety\.json"):
        read_safety(tmp_path, base_digest=backbone.digest)
