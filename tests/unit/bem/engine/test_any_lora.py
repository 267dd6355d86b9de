"""Tests of LoRAs of any linear layers: made by peft, imported, and served beside each other."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from bem.adapters import AdapterBank, read_adapter
from bem.adapters.peft_folder import export_lora, import_lora
from bem.backbone import Backbone, WeightFormat
from bem.engine import GenerationRequest, LLMEngine, ScoreRequest
from bem.errors import InvalidRequestError
from peft import LoraConfig, PeftModel, get_peft_model

from tests.support.family_models import family_backbone
from tests.unit.bem.engine.engines import ENDLESS, DeltaReader
from tests.unit.bem.engine.native.kernels import library, rounded
from tests.unit.bem.engine.native.test_layers import decoder_of, reference_of, states

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
PROMPT = tuple(range(5, 45))
NEW_TOKENS = 6
SAMPLING = replace(ENDLESS, logprobs=0)
INVOCATION = [30, 31]
CONFIGS: dict[str, dict[str, Any]] = {
    "all-linear": {"r": 4, "target_modules": "all-linear"},
    "attention": {"r": 2, "target_modules": ["q_proj", "v_proj"], "lora_alpha": 3},
    "everywhere": {"r": 3, "target_modules": ["o_proj", "down_proj"], "use_rslora": True},
    "patterns": {
        "r": 2,
        "target_modules": "all-linear",
        "rank_pattern": {"q_proj": 5, "layers.1.mlp.up_proj": 1},
        "alpha_pattern": {"k_proj|gate_proj": 7},
    },
    "first-layer": {"r": 2, "target_modules": ["k_proj"], "layers_to_transform": [0]},
    "activated": {
        "r": 3,
        "target_modules": ["q_proj", "k_proj", "v_proj"],
        "alora_invocation_tokens": INVOCATION,
    },
}
FAMILIES = ("llama", "qwen2", "qwen3", "granite", "olmo2", "phi3", "gemma2", "gemma3")


def make_lora(folder: Path, variant: str, seed: int = 3, **config: Any) -> Any:
    """Save a LoRA with random factors as peft does; return peft's model."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # peft's advice on the options
        given = LoraConfig(task_type="CAUSAL_LM", **config)
        model = get_peft_model(family_backbone(variant).model, given)
    torch.manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data.normal_(0, 0.15)
    model.save_pretrained(folder)
    return model.eval()


def greedy(model: Any, prompt: Sequence[int], banned: Sequence[int]) -> tuple[list[int], Any]:
    """Return peft's greedy tokens and the log-probabilities of the whole text."""
    ids = torch.tensor([list(prompt)])
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # generation settings that do not matter here
        out = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=NEW_TOKENS,
            do_sample=False,
            suppress_tokens=list(banned),
            eos_token_id=None,
            use_cache=True,  # peft finds the invocation in the first input only
        )
    return out[0, len(prompt) :].tolist(), out


def import_all(tmp_path: Path, backbone: Backbone, names: Sequence[str]) -> None:
    """Import the LoRAs in ``tmp_path / peft`` as adapters in ``tmp_path / adapters``."""
    for name in names:
        import_lora(
            tmp_path / "peft" / name,
            tmp_path / "adapters" / name,
            backbone=backbone,
            name=name,
            feature_layer=0,
            other_base=True,
        )


def make_bank(backbone: Backbone, slots: int) -> AdapterBank:
    """Return a bank that takes LoRAs of any linear layer."""
    return AdapterBank(backbone, layers=(1, 2), rank=8, slots=slots, feature_layer=0, linear=True)


def make_engine(
    backbone: Backbone, folder: Path, names: Sequence[str], **options: Any
) -> LLMEngine:
    """Return an engine with the adapters; it is not started."""
    bank = make_bank(backbone, options.pop("slots", len(names)))
    for name in names:
        bank.load(folder / name)
    return LLMEngine(backbone, bank, max_sequences=8, **options)


@contextmanager
def serve(backbone: Backbone, folder: Path, names: Sequence[str], **options: Any) -> Iterator[Any]:
    """Run an engine with the adapters."""
    engine = make_engine(backbone, folder, names, **options)
    engine.start()
    try:
        yield engine
    finally:
        engine.close(drain=False)


def generate(engine: LLMEngine, requests: Sequence[GenerationRequest]) -> list[list[int]]:
    """Return the tokens of requests that run together."""
    readers = [DeltaReader() for _ in requests]
    for request, reader in zip(requests, readers, strict=True):
        engine.submit(request, reader.arrived.put)
    return [
        [token.token for delta in reader.deltas() for token in delta.logprobs] for reader in readers
    ]


def greedy_request(name: str | None, prompt: Sequence[int] = PROMPT) -> GenerationRequest:
    """Return a request that ends by its token limit only."""
    return GenerationRequest(tuple(prompt), max_tokens=NEW_TOKENS, sampling=SAMPLING, adapter=name)


@pytest.mark.parametrize("variant", FAMILIES)
def test_all_linear_layers_of_a_family_are_exact(tmp_path: Path, variant: str) -> None:
    """The log-probabilities are peft's to 1e-4, beside the base model in one engine."""
    model = make_lora(tmp_path / "peft" / "x", variant, **CONFIGS["all-linear"])
    import_all(tmp_path, family_backbone(variant), ["x"])
    scorer = make_engine(family_backbone(variant), tmp_path / "adapters", ["x"]).core.scorer
    base = family_backbone(variant).model
    with torch.inference_mode():
        scores = [
            scorer.score([ScoreRequest(PROMPT[:1], PROMPT[1:], name)])[0] for name in ("x", None)
        ]
        for one, values in zip((model, base), scores, strict=True):
            logprobs = one(torch.tensor([PROMPT])).logits[0].log_softmax(-1)
            expected = [float(logprobs[at, token]) for at, token in enumerate(PROMPT[1:])]
            assert values == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("graphs", [False, True], ids=["eager", "graph-shaped"])
def test_batch_of_different_loras_is_greedily_that_of_peft(tmp_path: Path, graphs: bool) -> None:
    """All kinds and the base run together, prompts twice, so that cached blocks are used."""
    banned = [token for token, _ in ENDLESS.logit_bias]
    expected = {
        name: greedy(make_lora(tmp_path / "peft" / name, "llama", **config), PROMPT, banned)[0]
        for name, config in CONFIGS.items()
    }
    backbone = family_backbone("llama")
    import_all(tmp_path, backbone, list(CONFIGS))
    requests = [*(greedy_request(name) for name in CONFIGS), greedy_request(None)]
    with serve(backbone, tmp_path / "adapters", list(CONFIGS), graphs=graphs) as engine:
        first, again = generate(engine, requests), generate(engine, requests)
    base = greedy(family_backbone("llama").model, PROMPT, banned)[0]

    assert first == [*expected.values(), base]
    assert again == first
    assert len({tuple(one) for one in first}) > len(CONFIGS) // 2


def test_few_slots_page_loras_and_leave_nothing_behind(tmp_path: Path) -> None:
    """With one slot the next LoRA takes it, and layers that it does not adapt are the base's."""
    names = ["patterns", "first-layer", "all-linear"]
    banned = [token for token, _ in ENDLESS.logit_bias]
    expected = [
        greedy(make_lora(tmp_path / "peft" / name, "llama", **CONFIGS[name]), PROMPT, banned)[0]
        for name in names
    ]
    backbone = family_backbone("llama")
    import_all(tmp_path, backbone, names)
    with serve(backbone, tmp_path / "adapters", names, slots=1) as engine:
        served = [generate(engine, [greedy_request(name)])[0] for name in names]

    assert served == expected


def test_round_trip_has_the_logits_of_peft(tmp_path: Path) -> None:
    """An exported LoRA of all linear layers is peft's again, its activation included."""
    for name in ("patterns", "activated"):
        model = make_lora(tmp_path / "peft" / name, "qwen2", **CONFIGS[name])
        import_all(tmp_path, family_backbone("qwen2"), [name])
        adapter = read_adapter(tmp_path / "adapters" / name, base_digest="0" * 64)
        assert export_lora(adapter, tmp_path / "back" / name)
        back = PeftModel.from_pretrained(
            family_backbone("qwen2").model, str(tmp_path / "back" / name)
        )
        assert adapter.card.invocation_tokens == (
            back.peft_config["default"].alora_invocation_tokens or []
        )
        with torch.no_grad():
            ids = torch.tensor([PROMPT])
            torch.testing.assert_close(
                back.eval()(ids).logits, model(ids).logits, rtol=1e-4, atol=1e-4
            )


def test_activated_lora_needs_its_invocation(tmp_path: Path) -> None:
    """A prompt without the tokens is refused; with two of them the last one begins the adapter."""
    model = make_lora(tmp_path / "peft" / "x", "llama", **CONFIGS["activated"])
    backbone = family_backbone("llama")
    import_all(tmp_path, backbone, ["x"])
    prompt = [*range(5, 12), *INVOCATION, *range(40, 60), *INVOCATION, 9, 10]
    banned = [token for token, _ in ENDLESS.logit_bias]
    expected, _ = greedy(model, prompt, banned)
    with serve(backbone, tmp_path / "adapters", ["x"]) as engine:
        assert generate(engine, [greedy_request("x", prompt)]) == [expected]
        with pytest.raises(InvalidRequestError, match=r"activated by the tokens \[30, 31\]"):
            generate(engine, [greedy_request("x", range(5, 20))])


def test_lora_of_all_layers_composes_with_none(tmp_path: Path) -> None:
    """A composition that names it is refused by name."""
    for name in ("all-linear", "attention"):
        make_lora(tmp_path / "peft" / name, "llama", **CONFIGS[name])
    backbone = family_backbone("llama")
    import_all(tmp_path, backbone, ["all-linear", "attention"])
    binding = make_engine(backbone, tmp_path / "adapters", ["all-linear", "attention"]).core.binding
    segment = ScoreRequest(PROMPT, PROMPT, "attention").segment
    further = ScoreRequest(PROMPT, PROMPT, "all-linear").segment.active
    with pytest.raises(InvalidRequestError, match="'attention' adapts other layers"):
        binding.acquire_segment(type(segment)(0, 1, "attention", further=further))


def round_factors(model: Any, bank: AdapterBank) -> None:
    """Round the factors of peft's model that the bank holds in float16.

    Inputs of 8 bits near a tie make tiny models chaotic: factors changed by 1e-5 change logits by
    1e-2. Beside the same factors the kernels are compared exactly.
    """
    for name, parameter in model.named_parameters():
        path = name.removeprefix("base_model.model.").partition(".lora_")[0]
        if path in bank.linear.sites:
            parameter.data = parameter.data.half().float()


@pytest.mark.parametrize("variant", ["llama", "qwen2", "phi3", "gemma2", "granite"])
@pytest.mark.parametrize("config", ["all-linear", "patterns"])
def test_compiled_kernels_add_every_layers_update(
    tmp_path: Path, variant: str, config: str
) -> None:
    """The compiled layers compute peft's model on the weights and factors that they hold."""
    options = CONFIGS[config]
    if variant == "phi3" and config == "patterns":
        options = {
            "r": 2,
            "target_modules": ["qkv_proj", "down_proj"],
            "rank_pattern": {"down_proj": 5},
        }
    make_lora(tmp_path / "peft" / "x", variant, **options)
    import_all(tmp_path, family_backbone(variant), ["x"])
    backbone = replace(family_backbone(variant), kernels=library(), weight_format="int8")
    bank = make_bank(backbone, 2)
    loaded = bank.load(tmp_path / "adapters" / "x")
    decoder = decoder_of(backbone, bank)
    ids = torch.tensor([PROMPT, PROMPT])
    codes = torch.zeros(2, 1, bank.rank)
    codes[0] = 1  # the other row is the base model's
    for half in (bank.lower_codes, bank.row_codes):
        half.set(torch.full((2, 1), loaded.slot or 0), codes)
    with torch.inference_mode():
        found = decoder.logits(states(decoder, ids, [0, 1], [0, 0]))

    base = reference_of(decoder, family_backbone(variant))
    for module in base.modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_pre_hook(lambda _, given: (rounded(given[0]).float(),))
    with torch.inference_mode():
        alone = base(ids[1:]).logits[0, -1]
    model = PeftModel.from_pretrained(base, str(tmp_path / "peft" / "x")).eval()
    round_factors(model, bank)
    with torch.inference_mode():
        adapted = model(ids[:1]).logits[0, -1]

    assert (found[1] - alone).norm() / alone.norm() < 0.02
    assert (found[0] - adapted).norm() / adapted.norm() < 0.02
    assert (adapted - alone).norm() / alone.norm() > 0.2


@pytest.mark.parametrize(
    ("weights", "compiled", "expected"),
    [
        ("fp32", False, torch.float32),
        ("int8", False, torch.float32),
        ("int8", True, torch.float16),
        ("int4", True, torch.float16),
    ],
)
def test_factors_are_float16_beside_compiled_weights_only(
    weights: WeightFormat, compiled: bool, expected: torch.dtype
) -> None:
    """Driven sites, where the safety adapter and its projection are, stay float32."""
    kernels = library() if compiled else None
    backbone = replace(family_backbone("llama"), weight_format=weights, kernels=kernels)
    bank = make_bank(backbone, 1)

    assert {site.A.dtype for site in bank.linear.sites.values()} == {expected}
    assert {site.B.dtype for site in bank.linear.sites.values()} == {expected}
    assert {site.A.dtype for site in bank.factors.sites.values()} == {torch.float32}
