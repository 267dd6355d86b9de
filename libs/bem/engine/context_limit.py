"""Context of an engine: the limit of prompt and output that model and memory allow."""

from bem.backbone import Backbone
from bem.errors import UnsupportedBackboneError


def context_limit(backbone: Backbone, wanted: int | None, kv_tokens: int | None) -> int:
    """Return the context in tokens: what is wanted, or the model's own; at most what memory holds.

    Args:
        backbone: The model.
        wanted: Limit of prompt and output together; None for the model's own.
        kv_tokens: Positions that the KV cache may hold; None for no bound.

    Raises:
        UnsupportedBackboneError: The model attends to fewer tokens than the context has.
    """
    window = backbone.attention_window if wanted is None else None
    limits = (wanted, window, kv_tokens, backbone.context_tokens)
    context_tokens = min(limit for limit in limits if limit is not None)
    _check_window(backbone, context_tokens)
    return context_tokens


def _check_window(backbone: Backbone, context_tokens: int) -> None:
    window = backbone.attention_window
    if window is not None and context_tokens > window:
        raise UnsupportedBackboneError(
            f"backbone: {backbone.name} attends to {window} tokens (sliding_window) and the "
            f"context is {context_tokens}; the engine has no sliding window; set CONTEXT_TOKENS "
            f"to at most {window}"
        )
