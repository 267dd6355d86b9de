"""Spans of engine requests: model, counts and reason of the end, and no text."""

from bem.engine import GenerationRequest, OutputDelta
from bem.engine.api import ScaledAdapter
from bem_fleet.serving.engine_spans import engine_span, record_output
from fleet.tracing import server_span
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter


def test_engine_span_tells_model_and_tokens() -> None:
    """Composed adapters are named in order; the text of the answer is left out."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    composed = GenerationRequest(
        (1, 2, 3), max_tokens=9, adapter="a", further_adapters=(ScaledAdapter("b"),)
    )
    last = OutputDelta("secret", 4, finish="stop", cached_tokens=2)
    with server_span(provider.get_tracer("test"), "serve"):
        with engine_span(composed, "base") as one:
            record_output(one, last)
        with engine_span(GenerationRequest((1,)), "base"):
            pass
    first, second, _ = exporter.get_finished_spans()

    assert dict(first.attributes or {}) == {
        "gen_ai.operation.name": "text_completion",
        "gen_ai.request.model": "a+b",
        "gen_ai.request.max_tokens": 9,
        "gen_ai.usage.input_tokens": 3,
        "gen_ai.usage.output_tokens": 4,
        "gen_ai.usage.cache_read.input_tokens": 2,
        "gen_ai.response.finish_reasons": ("stop",),
    }
    assert dict(second.attributes or {})["gen_ai.request.model"] == "base"
    assert "secret" not in first.to_json()
