"""Context of an engine: the limit of prompt and output that model and memory allow."""

from bem.backbone import Backbone


def context_limit(backbone: Backbone, wanted: int | None, kv_tokens: int | None) -> int:
    """Return the context in tokens: what is wanted, or the model's own; at most what memory holds.

    Args:
        backbone: The model.
        wanted: Limit of prompt and output together; None for the model's own.
        kv_tokens: Positions that the KV cache may hold; None for no bound.
    """
    limits = (wanted, kv_tokens, backbone.context_tokens)
    return min(limit for limit in limits if limit is not None)
