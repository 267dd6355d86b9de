"""Tests of composed requests: several adapters in one request, within a trust region."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from bem.adapters.bank import AdapterBank
from bem.composition import CompositionSettings
from bem.engine import GenerationRequest, LLMEngine, ScaledAdapter, ScoreRequest
from bem.engine.engine import PREFIX_BYTES
from bem.errors import AdapterNotFoundError, InvalidRequestError
from bem.safety.overlay import load_overlay
from bem.testing import tiny_backbone

from tests.support.random_adapters import FEATURE_LAYER, LAYERS, RANK, write_adapter
from tests.support.random_safety_adapters import write_safety
from tests.unit.bem.engine.engines import GREEDY, encode, submit

PROMPT = encode("a prompt of more than thirty-two bytes, so that blocks are cached")
ALPHA = GenerationRequest(
    PROMPT, replace(GREEDY, logprobs=2), max_tokens=8, ignore_eos=True, adapter="alpha"
)
BOTH = replace(ALPHA, further_adapters=(ScaledAdapter("beta", 0.5),))


def make(
    folder: Path,
    settings: CompositionSettings | None = None,
    *,
    constant: bool = False,
    safety: bool = False,
    graphs: bool = False,
    prefix_bytes: int = PREFIX_BYTES,
) -> LLMEngine:
    """Return an engine with two adapters, and with a safety adapter if wanted."""
    backbone = tiny_backbone()
    bank = AdapterBank(backbone, layers=LAYERS, rank=RANK, slots=3, feature_layer=FEATURE_LAYER)
    overlay = None
    if safety:
        write_safety(folder / "safety", backbone)
        overlay = load_overlay(bank, folder / "safety", base_digest=backbone.digest)
    for seed, name in enumerate(("alpha", "beta")):
        write_adapter(folder, backbone, name, seed=seed, constant_code=constant)
        bank.load(folder / name)
    return LLMEngine(
        backbone,
        bank,
        composition=settings,
        safety=overlay,
        graphs=graphs,
        prefix_bytes=prefix_bytes,
    )


def outputs(engine: LLMEngine, *requests: GenerationRequest) -> list[list[tuple[int, float]]]:
    """Return the tokens of requests that run together, with their log-probabilities."""
    readers = [submit(engine, one)[0] for one in requests]
    engine.turn()
    while engine.counters.running or engine.counters.waiting:
        engine.turn()
    return [
        [(one.token, one.logprob) for delta in reader.deltas() for one in delta.logprobs]
        for reader in readers
    ]


def test_one_adapter_at_scale_one_is_the_request_of_today(tmp_path: Path) -> None:
    """Named beside the base model, or beside one at scale 0, an adapter gives the same bits."""
    engine = make(tmp_path, CompositionSettings(tau=1e-3), prefix_bytes=0)
    beside_base = replace(ALPHA, adapter=None, further_adapters=(ScaledAdapter("alpha"),))
    beside_zero = replace(ALPHA, further_adapters=(ScaledAdapter("beta", 0.0),))

    alone, base, zero = (outputs(engine, one)[0] for one in (ALPHA, beside_base, beside_zero))

    assert alone == base == zero
    assert engine.counters.composed == 0


@pytest.mark.parametrize("tau", [math.inf, 3.0])
@pytest.mark.parametrize("projection", ["orthogonal", "none"])
def test_composition_is_a_model_with_the_bounded_dense_sum(
    projection: str, tau: float, tmp_path: Path
) -> None:
    """The scores are those of weights to which each site's sum was added, within the radius."""
    settings = CompositionSettings(projection, tau)  # type: ignore[arg-type]
    engine = make(tmp_path, settings, constant=True)
    target = encode("and the target")
    request = ScoreRequest(PROMPT, target, "alpha", 0.75, further_adapters=BOTH.further_adapters)
    with torch.inference_mode():
        [found] = engine.core.scorer.score([request])

    bank = engine.core.binding.bank
    assert bank is not None
    merged = tiny_backbone().model
    engaged = 0
    with torch.no_grad():
        alpha, beta = (bank.acquire(name) for name in ("alpha", "beta"))
        first, second = (bank.factors.read(one.slot or 0, RANK) for one in (alpha, beta))
        for path, ((a, b), _) in first.items():
            (a2, b2), _ = second[path]
            if projection == "orthogonal":
                q = torch.linalg.qr(b.double()).Q
                b2 = (b2.double() - q @ (q.T @ b2.double())).float()
            total = 0.75 * b @ a + 0.5 * b2 @ a2
            factor = min(1.0, tau / float(total.norm()))
            engaged += factor < 1
            merged.get_submodule(path).weight += factor * total
        logits = merged(torch.tensor([[*PROMPT, *target]])).logits[0].log_softmax(-1)
    start = len(PROMPT) - 1
    expected = [float(logits[start + at, token]) for at, token in enumerate(target)]

    assert found == pytest.approx(expected, abs=2e-4)
    assert bool(engaged) == math.isfinite(tau)
    assert bool(engine.counters.scaled_codes) == math.isfinite(tau)


@pytest.mark.parametrize("graphs", [False, True])
def test_composed_rows_and_others_never_influence_each_other(graphs: bool, tmp_path: Path) -> None:
    """In one batch each row gets what it gets alone, whatever the trust region scales."""
    engine = make(tmp_path, CompositionSettings(tau=3.0), safety=True, graphs=graphs)
    base = replace(ALPHA, adapter=None)
    rows = (base, ALPHA, BOTH, replace(BOTH, safety_strength=1.0), replace(base, adapter="beta"))
    alone = [outputs(engine, one)[0] for one in rows]
    together = outputs(engine, *rows)

    for one, other in zip(alone, together, strict=True):
        assert [token for token, _ in one] == [token for token, _ in other]
        assert [p for _, p in one] == pytest.approx([p for _, p in other], abs=1e-4)
    assert len({tuple(one) for one in alone}) == len(rows)
    assert engine.counters.scaled_codes > 0


def test_blocks_belong_to_one_composition(tmp_path: Path) -> None:
    """A composition finds its own blocks, and none of its members', its scales' or its order's."""
    engine = make(tmp_path, constant=True)
    outputs(engine, ALPHA)
    reordered = replace(ALPHA, adapter="beta", further_adapters=(ScaledAdapter("alpha"),))
    for request in (BOTH, replace(BOTH, further_adapters=(ScaledAdapter("beta"),)), reordered):
        before = engine.counters.reused_tokens
        fresh = outputs(engine, request)[0]
        assert engine.counters.reused_tokens == before
        again = outputs(engine, request)[0]
        assert [token for token, _ in again] == [token for token, _ in fresh]
        assert engine.counters.reused_tokens > before


def test_the_version_names_the_composition(tmp_path: Path) -> None:
    """The version of a composed output is neither member's, and depends on the settings."""
    versions = set()
    for tau in (3.0, 4.0):
        engine = make(tmp_path, CompositionSettings(tau=tau))
        for request in (ALPHA, BOTH):
            reader, _ = submit(engine, request)
            engine.turn()
            while engine.counters.running:
                engine.turn()
            versions.add(reader.deltas()[-1].adapter_version)

    assert len(versions) == 3


def test_a_request_that_cannot_be_composed_is_refused_by_name(tmp_path: Path) -> None:
    """An unknown adapter, one named twice and one too many are named, with the limit."""
    engine = make(tmp_path, CompositionSettings(max_adapters=1))
    reader, _ = submit(engine, BOTH)
    engine.turn()
    with pytest.raises(InvalidRequestError, match="adapters: 2 adapters are composed; at most 1"):
        reader.deltas()
    reader, _ = submit(engine, replace(ALPHA, further_adapters=(ScaledAdapter("nobody", 0.0),)))
    engine.turn()
    with pytest.raises(AdapterNotFoundError, match="nobody"):
        reader.deltas()
    with pytest.raises(InvalidRequestError, match=r"adapters\[0\].name: 'alpha' is named twice"):
        replace(ALPHA, further_adapters=(ScaledAdapter("alpha"),))
    assert engine.core.binding.bank is not None
    assert engine.core.binding.bank.leases() == 0
