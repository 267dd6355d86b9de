"""The engine on the real base model: what it may differ by from transformers and from float32."""

import math
from pathlib import Path

import pytest
import torch
from bem.backbone import Backbone, WeightFormat, load_backbone
from bem.engine.decoder import Decoder
from bem.engine.kv_cache import KVCache
from bem.engine.linear import Int4Linear
from bem.engine.native import KernelPreference, select_kernels
from bem.engine.weight_autotune import select_format
from bem_fleet.data.passage_qa import load_passage_qa
from torch.nn.functional import cross_entropy

pytestmark = pytest.mark.slow
CACHE = Path(__file__).resolve().parents[4] / ".cache/models"
WINDOW = 512


def require_kernels() -> None:
    """Skip where the processor cannot run the compiled kernels: emulated, a model takes hours."""
    choice = select_kernels("auto")
    if choice.library is None:
        pytest.skip(choice.reason)


def texts() -> list[str]:
    """Return passages, each once."""
    items = load_passage_qa(0).splits["train"]
    return list(dict.fromkeys(item.passage for item in items))


def decoder_of(backbone: Backbone) -> Decoder:
    """Return an engine's forward pass of one row."""
    return Decoder(backbone, None, KVCache(backbone, slots=1, context_tokens=WINDOW))


def loss(decoder: Decoder, ids: torch.Tensor) -> float:
    """Return the mean negative log-likelihood of ``ids [WINDOW]``."""
    with torch.inference_mode():
        span = decoder.plan([0], [0], WINDOW)
        hidden = decoder.upper(decoder.lower(ids[None], span)[0], span)
        return float(cross_entropy(decoder.logits(hidden[0, :-1, None]), ids[1:]))


def predictions(decoder: Decoder, deltas: list[list[int]]) -> torch.Tensor:
    """Return the log-probabilities after each token, computed delta by delta."""
    found, begin = [], 0
    with torch.inference_mode():
        for delta in deltas:
            plan = decoder.plan([0], [begin], len(delta))
            hidden = decoder.upper(decoder.lower(torch.tensor([delta]), plan)[0], plan)
            found.append(decoder.logits(hidden[0, :, None]).log_softmax(-1))
            begin += len(delta)
    return torch.cat(found)


def test_float32_logits_are_those_of_transformers() -> None:
    """On 20 prompts the last logits differ by at most 1e-4 from transformers' own."""
    backbone = load_backbone(cache=CACHE)
    prompts = [backbone.tokenizer(text)["input_ids"][:48] for text in texts()[:20]]
    with torch.inference_mode():
        wanted = [
            backbone.model(input_ids=torch.tensor([ids])).logits[0, -1].clone() for ids in prompts
        ]
    decoder = decoder_of(backbone)

    for ids, want in zip(prompts, wanted, strict=True):
        with torch.inference_mode():
            span = decoder.plan([0], [0], len(ids))
            hidden = decoder.upper(decoder.lower(torch.tensor([ids]), span)[0], span)
            assert (decoder.logits(hidden)[0] - want).abs().max() <= 1e-4


@pytest.fixture(scope="module")
def float32() -> tuple[torch.Tensor, float]:
    """Four windows of token ids, and float32's mean loss on them: minutes on a busy machine."""
    base = load_backbone(cache=CACHE)
    ids = torch.tensor(base.tokenizer("\n\n".join(texts()[:40]))["input_ids"][: 4 * WINDOW])
    windows, decoder = ids.view(4, WINDOW), decoder_of(base)
    return windows, sum(loss(decoder, window) for window in windows) / 4


@pytest.mark.parametrize("kernels", ["torch", "native"])
@pytest.mark.parametrize(("kind", "few", "limit"), [("int8", 0, 1.02), ("int4", WINDOW, 1.05)])
def test_fewer_bits_cost_little_perplexity(
    kind: WeightFormat,
    few: int,
    limit: float,
    kernels: KernelPreference,
    float32: tuple[torch.Tensor, float],
) -> None:
    """On 2,048 tokens perplexity stays within 2 % (8 bits) and 5 % (4 bits) of float32's."""
    if kernels == "native":
        require_kernels()
    windows, wanted = float32
    decoder = decoder_of(select_format(load_backbone(cache=CACHE), kind, kernels)[0])
    for product in decoder.linears:
        if isinstance(product, Int4Linear):
            product.max_int4_rows = few

    found = sum(loss(decoder, window) for window in windows) / 4

    assert math.exp(found - wanted) <= limit


@pytest.mark.parametrize(("kind", "limit"), [("int8", 0.03), ("int4", 0.01)])
def test_compiled_kernels_predict_as_float32_does(kind: WeightFormat, limit: float) -> None:
    """Predictions diverge from float32's by little (KL, nats), and steps go on as prompts do."""
    require_kernels()
    base = load_backbone(cache=CACHE)
    ids = base.tokenizer(texts()[0])["input_ids"][:96]
    wanted = predictions(decoder_of(base), [ids])
    decoder = decoder_of(select_format(base, kind, "native")[0])

    found = predictions(decoder, [ids])
    stepped = predictions(decoder, [ids[:32], *([token] for token in ids[32:])])

    assert float((wanted.exp() * (wanted - found)).sum(1).mean()) <= limit
    assert torch.equal(stepped, found)
