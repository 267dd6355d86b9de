"""Spans of engine requests, named by OpenTelemetry's conventions for generative AI."""

from bem.engine import GenerationRequest, OutputDelta
from fleet.tracing import Span, span

FIRST_TOKEN = "first_token"  # noqa: S105 - an event
"""Event of the span when the first text arrives: queue and prefill end there."""


def engine_span(request: GenerationRequest, base_model: str) -> Span:
    """Return the span of a request to the engine: its queue, prefill and decode steps.

    Args:
        request: The request.
        base_model: Name of the base model, for requests without an adapter.
    """
    names = [request.adapter, *(one.name for one in request.further_adapters)]
    return span(
        "engine.generate",
        {
            "gen_ai.operation.name": "text_completion",
            "gen_ai.request.model": "+".join(name for name in names if name) or base_model,
            "gen_ai.request.max_tokens": request.max_tokens,
            "gen_ai.usage.input_tokens": len(request.prompt_ids),
        },
    )


def record_output(one: Span, last: OutputDelta) -> None:
    """Record what the last delta of a request tells: tokens, reason of the end, prefix cache."""
    one.set("gen_ai.usage.output_tokens", last.completion_tokens)
    one.set("gen_ai.usage.cache_read.input_tokens", last.cached_tokens)
    if last.finish:
        one.set("gen_ai.response.finish_reasons", [last.finish])
