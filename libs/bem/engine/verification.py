"""Comparison of the engine's forward pass with transformers' own, before a base model is served.

``bem.architecture`` refuses what is known to differ. This check finds what is not known: a new
variant under an old name, or a change in a new release of transformers.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
import transformers
from torch import Tensor

from bem.backbone import Backbone
from bem.digests import code_digest
from bem.engine.decoder import Decoder
from bem.engine.shard_leader import open_cache, reference_logits
from bem.errors import UnsupportedBackboneError
from bem.files import write_atomic

TOLERANCE = 1e-3
"""Largest absolute difference of float32 logits."""
PROMPT_TOKENS = 48
_SEED = 20_251
_MEMO = "verified.json"


@torch.inference_mode()
def verify_backbone(backbone: Backbone, *, context_tokens: int, cache: Path) -> float:
    """Compare the logits of a random prompt and remember the result.

    The result is cached by the digest of the model, the engine's code and the versions of the
    libraries, so that later starts skip the comparison.

    Args:
        backbone: Model as loaded, in float32, without adapter sites.
        context_tokens: Context that will be served; rotary angles may depend on it.
        cache: Folder of the remembered results.

    Returns:
        The largest absolute difference.

    Raises:
        UnsupportedBackboneError: The logits differ by more than ``TOLERANCE``, are not finite, or
            the engine cannot compute the model.
    """
    context = min(context_tokens, backbone.context_tokens)
    key = _key(backbone, context)
    if (known := _read_memo(cache).get(key)) is not None:
        return known
    generator = torch.Generator().manual_seed(_SEED)
    size = (1, min(PROMPT_TOKENS, context))
    ids = torch.randint(backbone.model.config.vocab_size, size, generator=generator)
    ids = ids.to(backbone.model.device)
    expected = reference_logits(backbone, ids)[0].float()
    try:
        actual = _engine_logits(backbone, ids, context)
    # Modules that a variant lacks, or shapes that it has: any of these says that it is another one.
    except (AttributeError, IndexError, RuntimeError, TypeError, ValueError) as err:
        raise UnsupportedBackboneError(
            f"backbone: the engine cannot compute {backbone.name}: {err}; choose a model of a "
            "supported architecture"
        ) from err
    difference = float((actual - expected).abs().max())
    if not difference <= TOLERANCE:  # also where it is NaN
        raise UnsupportedBackboneError(
            f"backbone: the engine's logits of {backbone.name} differ from transformers' by "
            f"{difference:.3g}; at most {TOLERANCE:g} is allowed; it is a variant that the engine "
            "does not support; choose another model"
        )
    _remember(cache, key, difference)
    return difference


def _engine_logits(backbone: Backbone, ids: Tensor, context: int) -> Tensor:
    """Return ``[T, V]``: half of the prompt in one pass, then token by token through the cache."""
    decoder = Decoder(backbone, None, open_cache(backbone, slots=1, context_tokens=context))
    tokens, half = ids.shape[1], (ids.shape[1] + 1) // 2
    logits = []
    for begin, end in [(0, half), *((place, place + 1) for place in range(half, tokens))]:
        plan = decoder.plan([0], [begin], end - begin)
        hidden, _ = decoder.lower(ids[:, begin:end], plan)
        states = decoder.upper(hidden, plan)[0]  # [T, F]
        logits.append(decoder.logits(states.unsqueeze(1)))
    return torch.cat(logits)


def _key(backbone: Backbone, context: int) -> str:
    versions: Sequence[str] = (torch.__version__, transformers.__version__)
    code = code_digest(Path(__file__).parent)
    device = backbone.model.device.type
    shards = [f"{backbone.shards.size} shards"] if backbone.shards else []
    return "|".join([backbone.digest, code, *versions, device, str(context), *shards])


def _read_memo(cache: Path) -> dict[str, float]:
    try:
        values = json.loads((cache / _MEMO).read_text())
    except (OSError, ValueError):  # absent or broken: the comparison is made again
        return {}
    return values if isinstance(values, dict) else {}


def _remember(cache: Path, key: str, difference: float) -> None:
    try:
        write_atomic(cache / _MEMO, json.dumps({**_read_memo(cache), key: difference}).encode())
    except OSError:  # a read-only cache: every start compares
        return
