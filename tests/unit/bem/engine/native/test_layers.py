"""Tests of decoder layers in compiled kernels beside torch on the same stored weights."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from bem.adapters.bank import AdapterBank
from bem.backbone import Backbone, WeightFormat
from bem.engine import weight_autotune
from bem.engine.decoder import Decoder
from bem.engine.kv_cache import KVCache
from bem.engine.native.build import KernelChoice
from bem.engine.native.layers import unsupported_reason
from bem.errors import UnsupportedWeightsError
from bem.testing import tiny_backbone
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.support import tiny_models
from tests.support.family_models import every_variant, family_backbone
from tests.support.random_adapters import FEATURE_LAYER, LAYERS, RANK, write_adapter
from tests.unit.bem.engine.native.kernels import library, packed, rounded

CONTEXT, SLOTS = 96, 4
KINDS = ("int8", "int4")


def backbone_of(kind: str) -> Backbone:
    """Return the tiny model in a format that compiled kernels multiply."""
    return packed(kind)  # type: ignore[arg-type]


def decoder_of(backbone: Backbone, bank: AdapterBank | None = None) -> Decoder:
    """Return a decoder over a cache in which nothing that is read is left unwritten."""
    cache = KVCache(backbone, slots=SLOTS, context_tokens=CONTEXT)
    cache.keys.fill_(torch.nan)
    cache.values.fill_(torch.nan)
    return Decoder(backbone, bank, cache)


def states(decoder: Decoder, ids: Tensor, slots: list[int], starts: list[int]) -> Tensor:
    """Run ``ids [R, T]`` through all layers."""
    with torch.inference_mode():
        plan = decoder.plan(slots, starts, ids.shape[1])
        return decoder.upper(decoder.lower(ids, plan)[0], plan)


def reference_of(decoder: Decoder, backbone: Backbone | None = None) -> Any:
    """Return transformers' model with the weights that a native decoder holds.

    Args:
        decoder: Native decoder.
        backbone: Fresh model of the decoder's; None for the tiny one.
    """
    backbone = backbone or tiny_backbone()
    model, family = backbone.model, backbone.family
    products: Iterator[Any] = iter(decoder.linears)
    with torch.no_grad():
        for block in model.model.layers:
            attention, mlp = block.self_attn, block.mlp
            _fill([getattr(attention, one) for one in family.qkv], next(products).dequantize())
            attention.o_proj.weight.copy_(next(products).dequantize())
            both = next(products).dequantize().unflatten(0, (-1, 2, 16))
            halves = torch.cat([both[:, 0].flatten(0, 1), both[:, 1].flatten(0, 1)])
            _fill([getattr(mlp, one) for one in family.gate_up], halves)
            mlp.down_proj.weight.copy_(next(products).dequantize())
        # A tied embedding keeps its own values: no product reads it.
        model.lm_head.weight = nn.Parameter(next(products).dequantize())
    return model


def _fill(parts: list[Any], rows: Tensor) -> None:
    """Write the rows of a fused matrix into its parts."""
    first = 0
    for part in parts:
        part.weight.copy_(rows[first : first + len(part.weight)])
        first += len(part.weight)
    assert first == len(rows)


def random_ids(seed: int, rows: int, tokens: int) -> Tensor:
    """Return token ids."""
    return torch.randint(0, 250, (rows, tokens), generator=torch.Generator().manual_seed(seed))


def with_adapters(backbone: Backbone, folder: Path) -> AdapterBank:
    """Install sites and bring two adapters into their slots."""
    bank = AdapterBank(backbone, layers=LAYERS, rank=RANK, slots=3, feature_layer=FEATURE_LAYER)
    for seed, name in enumerate(("alpha", "beta")):
        if not (folder / name).exists():
            write_adapter(folder, backbone, name, seed=seed, size=0.5)
        bank.load(folder / name)
        bank.acquire(name)
    return bank


def under(decoder: Decoder, bank: AdapterBank, codes: Tensor) -> list[Tensor]:
    """Run three rows without adapters, with one code a row, and with one a token."""
    found = []
    slots = torch.tensor([[adapter.slot for adapter in bank.adapters()]] * 3)
    for chosen in (None, codes[:, 0], codes):
        bank.row_codes.clear()
        if chosen is not None:
            bank.row_codes.set(slots, chosen)
        found.append(states(decoder, random_ids(2, 3, 6), [0, 1, 2], [0, 0, 0]))
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_layers_compute_the_model_of_the_held_weights(kind: str) -> None:
    """Logits are transformers' on the same weights, its products' inputs rounded to 8 bits."""
    decoder = decoder_of(backbone_of(kind))
    ids = random_ids(0, 3, 40)
    reference = reference_of(decoder)
    for module in reference.modules():
        if isinstance(module, nn.Linear):
            module.register_forward_pre_hook(lambda _, given: (rounded(given[0]).float(),))

    with torch.inference_mode():
        found = decoder.logits(states(decoder, ids, [0, 1, 3], [0, 0, 0]))
        wanted = reference(input_ids=ids).logits[:, -1]

    # A value between two levels may fall to the other one.
    assert (found - wanted).norm() / wanted.norm() < 0.01


@settings(max_examples=15, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    lengths=st.lists(st.integers(1, CONTEXT - 2), min_size=1, max_size=SLOTS),
    cut=st.integers(1, CONTEXT),
    order=st.permutations(range(SLOTS)),
)
def test_rows_pieces_and_places_do_not_change_a_bit(
    kind: str, lengths: list[int], cut: int, order: list[int]
) -> None:
    """Rows of unequal lengths that step together give the bits of each alone, cut into deltas."""
    decoder = decoder_of(backbone_of(kind))
    slots = list(order[: len(lengths)])
    prompts = [random_ids(seed, 1, length) for seed, length in enumerate(lengths)]
    tokens = random_ids(99, len(lengths), 1)
    for prompt, slot in zip(prompts, slots, strict=True):
        states(decoder, prompt, [slot], [0])

    together = states(decoder, tokens, slots, lengths)

    alone = decoder_of(backbone_of(kind))
    for row, (prompt, length) in enumerate(zip(prompts, lengths, strict=True)):
        whole = torch.cat([prompt, tokens[row : row + 1]], 1)
        begin = 0
        while begin <= length:
            delta = whole[:, begin : begin + cut]
            last = states(alone, delta, [0], [begin])[:, -1:]
            begin += cut
        assert torch.equal(last[0], together[row])


@pytest.mark.parametrize("kind", KINDS)
def test_the_number_of_threads_changes_no_bit(kind: str) -> None:
    """A decode step may have any: each output is computed in one thread."""
    found = []
    for threads in (1, 2, 3, 7):
        decoder = decoder_of(backbone_of(kind))
        assert decoder.library is not None
        decoder.library.threads = threads
        hidden = states(decoder, random_ids(0, 3, 40), [0, 1, 3], [0, 0, 0])
        found.append(decoder.logits(hidden))
        decoder.library.threads = None

    assert all(torch.equal(found[0], one) for one in found[1:])


@pytest.mark.parametrize("kind", KINDS)
def test_sites_compute_the_update_of_each_row(kind: str, tmp_path: Path) -> None:
    """Sites compute what torch's sites do: a code per row, a code per token, and no adapter."""
    codes = torch.rand(3, 6, 2, RANK, generator=torch.Generator().manual_seed(1))
    codes[1] = 0
    native = backbone_of(kind)
    bank = with_adapters(native, tmp_path)
    decoder = decoder_of(native, bank)
    found = under(decoder, bank, codes)
    reference = replace(tiny_backbone(), model=reference_of(decoder))
    bank = with_adapters(reference, tmp_path)
    cache = KVCache(reference, slots=3, context_tokens=32)
    wanted = under(Decoder(reference, bank, cache), bank, codes)

    for mine, theirs in zip(found, wanted, strict=True):
        assert (mine - theirs).norm() / theirs.norm() < 0.1  # what 8-bit inputs lose
    assert torch.equal(found[0][1], found[1][1])
    assert (found[1][0] - found[0][0]).norm() / found[0][0].norm() > 0.3
    assert (found[2][0] - found[1][0]).norm() / found[0][0].norm() > 0.1


@pytest.mark.parametrize("steps", [(), (6,)])
def test_site_factors_scale_the_codes(steps: tuple[int, ...], tmp_path: Path) -> None:
    """A factor at one site is that site's code times the factor; 1 everywhere changes no bit."""
    backbone = backbone_of("int8")
    bank = with_adapters(backbone, tmp_path)
    decoder = decoder_of(backbone, bank)
    slots = torch.tensor([[one.slot for one in bank.adapters()]] * 3)
    codes = torch.rand(3, *steps, 2, RANK, generator=torch.Generator().manual_seed(1))
    factors = torch.ones(len(bank.factors.sites), 3, *steps)

    def run(chosen: Tensor, scaled: Tensor | None) -> Tensor:
        bank.row_codes.set(slots, chosen, scaled)
        return states(decoder, random_ids(2, 3, 6), [0, 1, 2], [0, 0, 0])

    plain = run(codes, None)
    assert torch.equal(run(codes, factors), plain)
    factors[:, 1] = 0.5
    halved = codes.clone()
    halved[1] *= 0.5
    assert torch.equal(run(codes, factors), run(halved, None))
    factors[:, 1] = 1
    factors[-1, 1] = 0
    found = run(codes, factors)
    assert torch.equal(found[0], plain[0])
    assert not torch.equal(found[1], plain[1])


def test_codes_that_do_not_fit_the_tokens_are_refused(tmp_path: Path) -> None:
    """AdapterSchedule of two rows are no codes for one."""
    backbone = backbone_of("int8")
    bank = AdapterBank(backbone, layers=LAYERS, rank=RANK, slots=2, feature_layer=FEATURE_LAYER)
    write_adapter(tmp_path, backbone, "alpha", seed=0)
    bank.load(tmp_path / "alpha")
    decoder = decoder_of(backbone, bank)
    bank.row_codes.set(torch.zeros(2, 1, dtype=torch.int64), torch.ones(2, 1, RANK))

    with pytest.raises(ValueError, match="do not fit 1 x 3 tokens"):
        states(decoder, random_ids(0, 1, 3), [0], [0])


def test_an_unsupported_backbone_is_left_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """A width that the kernels do not support is named, and ``auto`` selects torch's kernels."""
    backbone = tiny_backbone()
    backbone.model.config.intermediate_size = 60
    choice = KernelChoice(library(), "native")
    monkeypatch.setattr(weight_autotune, "select_kernels", lambda *_: choice)

    selected, report = weight_autotune.select_format(backbone, "int8", "auto")

    assert "60 is not a multiple of 16" in unsupported_reason(backbone)
    assert selected.kernels is None
    assert report.kernels.startswith("torch: the intermediate size 60")


def family_decoder(variant: str, kind: WeightFormat) -> Decoder:
    """Return a native decoder of a family's tiny model."""
    backbone = family_backbone(variant)
    assert unsupported_reason(backbone) == ""
    return decoder_of(replace(backbone, kernels=library(), weight_format=kind))


@every_variant
@pytest.mark.parametrize("kind", KINDS)
def test_every_family_is_computed_from_the_held_weights(variant: str, kind: WeightFormat) -> None:
    """Logits are transformers' on the same weights and rounded inputs, in float64.

    Where an input lies at a tie, it may be rounded to the other level, which changes all that
    follows by some percent; the positions without a tie before them agree. So that there are some
    on every processor, the text is short: it goes just beyond a window.
    """
    decoder = family_decoder(variant, kind)
    ids, first = random_ids(0, 4, 40), 20
    reference = reference_of(decoder, family_backbone(variant)).double()
    for module in reference.modules():
        if isinstance(module, nn.Linear):
            module.register_forward_pre_hook(lambda _, given: (rounded(given[0]),))

    hidden = states(decoder, ids, list(range(4)), [0] * 4)[:, first:].flatten(0, 1)
    with torch.inference_mode():
        found = decoder.logits(hidden.unsqueeze(1))
        wanted = reference(input_ids=ids).logits[:, first:].flatten(0, 1)
    errors = (found - wanted).norm(dim=1) / wanted.norm(dim=1)
    assert errors.quantile(0.1) < 1e-5
    assert errors.max() < 0.2


@every_variant
@pytest.mark.parametrize("cut", [1, 7, 31])
def test_pieces_of_every_family_change_no_bit(variant: str, cut: int) -> None:
    """Attention with windows and bounds sums in an order that neighbours do not change."""
    decoder, ids = family_decoder(variant, "int8"), random_ids(1, 1, 90)
    whole = states(decoder, ids, [0], [0])[:, -1]
    for begin in range(0, 90, cut):
        last = states(decoder, ids[:, begin : begin + cut], [3], [begin])[:, -1]

    assert torch.equal(last, whole)


@every_variant
def test_observed_queries_of_every_family_weigh_keys_as_attention_does(variant: str) -> None:
    """The queries that cache policies read are those of torch's layers, but for rounding."""
    native = family_decoder(variant, "int8")
    exact = decoder_of(family_backbone(variant))
    ids = random_ids(2, 1, 12)
    with torch.inference_mode():
        found = native.observe(0, native.embed(ids), native.plan([0], [0], 12))[1]
        wanted = exact.observe(0, exact.embed(ids), exact.plan([0], [0], 12))[1]

    assert (found - wanted).norm() / wanted.norm() < 0.05


def test_a_backbone_in_bfloat16_is_refused() -> None:
    """Compiled layers take a float32 model and say what they were given."""
    backbone = backbone_of("int8")
    backbone.model.to(torch.bfloat16)

    with pytest.raises(UnsupportedWeightsError, match="bfloat16"):
        decoder_of(backbone)


@pytest.mark.parametrize("kind", KINDS)
def test_angles_count_what_was_evicted(kind: str) -> None:
    """A token at a place is rotated by its position in the text, as torch does it."""
    decoder = decoder_of(backbone_of(kind))
    cache = decoder._kv_cache
    ids = random_ids(0, 1, 12)
    with torch.inference_mode():
        states(decoder, ids, [0], [0])
        before = cache.keys[:, 0, :, 8].clone()
        plan = decoder.plan([0], [3], 1, evicted=[5])
        embedded = decoder.embed(ids[:, 8:9])
        hidden, queries = decoder.observe(0, embedded, plan)

        assert torch.equal(cache.keys[0, 0, :, 3], before[0])
        assert queries.shape == (1, 1, 4, 8)
        assert hidden.shape == embedded.shape


@pytest.mark.parametrize("kind", KINDS)
def test_observed_queries_are_those_of_the_pass(kind: str) -> None:
    """Attention by the observed queries gives what the layer adds to its input."""
    decoder = decoder_of(backbone_of(kind))
    ids = random_ids(1, 1, 10)
    with torch.inference_mode():
        states(decoder, ids, [0], [0])
        plan = decoder.plan([0], [0], 10)
        _, queries = decoder.observe(0, decoder.embed(ids), plan)
        keys = decoder._kv_cache.keys[0, 0, :, :10]
        model = reference_of(decoder).model
        block = model.layers[0].self_attn
        normed = model.layers[0].input_layernorm(model.embed_tokens(ids))
        projected = block.k_proj(normed)[0].view(10, 2, 8), block.q_proj(normed)[0].view(10, 4, 8)

    # Rotation keeps norms: only the products are compared, whose inputs are rounded to 8 bits.
    for observed, expected in ((keys.transpose(0, 1), projected[0]), (queries[0], projected[1])):
        assert torch.allclose(observed.norm(dim=-1), expected.norm(dim=-1), rtol=0.05, atol=0.05)


@pytest.mark.parametrize("width", [144, 258])
def test_head_widths_without_kernels_are_left_to_torch(width: int) -> None:
    """Heads of up to 128 are supported, and of 242 to 256."""
    model = tiny_models.tiny_model("qwen2", head_dim=width, num_hidden_layers=1)
    reason = f"the head width {width} is odd, or above 128 and not 242 to 256"

    assert unsupported_reason(tiny_models.backbone_of(model)) == reason
