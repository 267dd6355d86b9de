"""Perplexity of a weight format on a packaged text, kept in a file by model digest."""

import copy
import hashlib
import json
import math
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from bem.backbone import Backbone
from bem.engine.decoder import Decoder
from bem.engine.kv_cache import KVCache
from bem.engine.scoring import Scorer, ScoreRequest
from bem.files import write_atomic

TEXT = Path(__file__).with_name("perplexity_text.txt")
TOKENS, WINDOW, WINDOWS_PER_BATCH = 2048, 256, 4


def text_nats(backbone: Backbone, memo: Path | None = None) -> float:
    """Return the mean negative log-likelihood of the packaged text, in nats per token.

    The text is cut into windows of 256 tokens, each with a context of its own. The backbone keeps
    its weights: the engine's form of them is built from a copy of the module tree that shares the
    tensors, and is freed afterwards.

    Args:
        backbone: Model with the weight format and the kernels that are measured.
        memo: JSON file of earlier results by model digest, format, kernels and text. None measures.
            A file that cannot be written costs a measurement at the next start.
    """
    text = TEXT.read_text()
    key = f"{backbone.digest}:{arithmetic(backbone)}:{hashlib.sha256(text.encode()).hexdigest()}"
    known = _read(memo)
    if key not in known:
        known[key] = _measure(backbone, text)
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


def _measure(backbone: Backbone, text: str) -> float:
    shared = _share_weights(backbone)
    if shared.weight_format == "bf16":
        shared.model.to(torch.bfloat16)
    window = min(WINDOW, backbone.context_tokens)
    ids = backbone.tokenizer.encode(text, add_special_tokens=False)[:TOKENS]
    windows = [ids[at : at + window] for at in range(0, len(ids) - window + 1, window)]
    requests = [ScoreRequest((one[0],), tuple(one[1:])) for one in windows]
    decoder = Decoder(shared, None, KVCache(shared, slots=1, context_tokens=window))
    scorer = Scorer(decoder, None, window, shared.model.device)
    logprobs: list[float] = []
    with torch.inference_mode():
        for at in range(0, len(requests), WINDOWS_PER_BATCH):
            for scored in scorer.score(requests[at : at + WINDOWS_PER_BATCH]):
                logprobs += scored
    return -sum(logprobs) / len(logprobs)


def _share_weights(backbone: Backbone) -> Backbone:
    """Return a backbone whose modules are copies and whose tensors are the same memory."""
    parameters = {
        id(one): nn.Parameter(one.data, requires_grad=False) for one in backbone.model.parameters()
    }
    return replace(backbone, model=copy.deepcopy(backbone.model, parameters))
