"""Perplexity of a weight format relative to float32, kept in a file by model digest.

The perplexity of the few thousand words that a start has time for is too noisy for a limit of one
percent: on 2,000 tokens the ratio of two formats has a standard error of 0.3 %, nearly all of it
from which token happens to follow. Therefore each position of the text is averaged over all tokens
that float32 expects to follow, instead of the one that does. The ratio is then ``exp(KL(p || q))``,
with float32's probabilities p and the format's q, and its standard error is some hundredths of a
percent.
"""

import copy
import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from bem.backbone import Backbone
from bem.engine.decoder import Decoder
from bem.engine.kv_cache import KVCache
from bem.files import write_atomic
from bem.prompt_encoding import PromptEncoder

TEXT = Path(__file__).with_name("perplexity_text.txt")
TOKENS, WINDOW = 1024, 256


def perplexity_ratio(backbone: Backbone, memo: Path | None = None) -> float:
    """Return the perplexity in the backbone's weight format, relative to float32.

    The backbone keeps its weights: the engine's form of them is built from a copy of the module
    tree that shares the tensors, and is freed afterwards.

    Args:
        backbone: Model as loaded, with the weight format and the kernels that are measured.
        memo: JSON file of earlier results by model digest, format, kernels and text. None measures.
            A file that cannot be written costs a measurement at the next start.
    """
    text = TEXT.read_text()
    begin = PromptEncoder(backbone.tokenizer).begin_ids
    measured = hashlib.sha256(f"{text}{begin or ''}".encode()).hexdigest()
    key = f"{backbone.digest}:{arithmetic(backbone)}:{measured}"
    known = _read(memo)
    if key not in known:
        known[key] = math.exp(_mean_divergence(backbone, text))
        if memo is not None and math.isfinite(known[key]):
            try:
                write_atomic(memo, json.dumps(known, indent=1).encode())
            except OSError:  # a read-only image: the next start measures again
                return known[key]
    return known[key]


def arithmetic(backbone: Backbone) -> str:
    """Return what a result depends on besides model and text: format, device and kernels."""
    kind, device = backbone.weight_format, backbone.model.device.type
    if kind in {"fp32", "bf16"}:
        return f"{kind}:{device}"
    if backbone.kernels is not None:
        return f"{kind}:{backbone.kernels.path.name}"
    vnni = bool(torch.cpu.get_capabilities().get("avx512_vnni"))
    return f"{kind}:torch-{torch.__version__}{'-vnni' if vnni else ''}"


def _read(memo: Path | None) -> dict[str, float]:
    """Return the results in a file; none if it is missing or malformed."""
    if memo is None or not memo.exists():
        return {}
    try:
        known = json.loads(memo.read_text())
        return {str(key): float(value) for key, value in known.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


@torch.inference_mode()
def _mean_divergence(backbone: Backbone, text: str) -> float:
    """Return the mean of KL(p || q) over the positions of the text, in nats."""
    encoder, window = PromptEncoder(backbone.tokenizer), min(WINDOW, backbone.context_tokens)
    # Models that were trained behind a first token compute something else without it.
    begin, ids = encoder.begin_ids, encoder.encode_text(text)[:TOKENS]
    part = window - len(begin)
    windows = [begin + ids[at : at + part] for at in range(0, len(ids) - part + 1, part)]
    exact = _decoder(replace(backbone, weight_format="fp32"), window)
    other = _decoder(backbone, window)
    device, total = backbone.model.device, 0.0
    for one in windows:
        tokens = torch.tensor([one], device=device)
        pairs = zip(_log_probs(exact, tokens), _log_probs(other, tokens), strict=True)
        for p, q in pairs:
            total += float((p.exp() * (p - q)).sum())
    return total / (len(windows) * window)


def _log_probs(decoder: Decoder, ids: Tensor) -> Iterator[Tensor]:
    """Yield the log-probabilities ``[K, V]`` after the tokens of ``ids [1, T]``, in order."""
    plan = decoder.plan_full_texts(*ids.shape)
    hidden, _ = decoder.lower(ids, plan, transient=True)
    hidden = decoder.upper(hidden, plan, transient=True)[0]
    # Two formats have logits over the vocabulary in memory at once.
    for part in hidden.split(max(1, decoder.head_rows // 2)):
        yield decoder.logits(part.unsqueeze(1)).log_softmax(-1)


def _decoder(backbone: Backbone, window: int) -> Decoder:
    """Return a decoder whose modules are copies and whose tensors are those of the backbone."""
    parameters = {
        id(one): nn.Parameter(one.data, requires_grad=False) for one in backbone.model.parameters()
    }
    shared = replace(backbone, model=copy.deepcopy(backbone.model, parameters))
    if shared.weight_format == "bf16":
        shared.model.to(torch.bfloat16)
    return Decoder(shared, None, KVCache(shared, slots=1, context_tokens=window))
