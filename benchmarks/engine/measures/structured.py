"""Structured output against free text: tokens per second of 16 rows in the running engine.

Each row has a schema of its own, compiled before, whose shortest output is longer than the tokens
that are generated, so that both sides decode as many tokens from equal prompts. Sampling is at
temperature 1 on both sides.
"""

import json
import queue

from bem.engine import GenerationRequest, LLMEngine, OutputDelta, OutputForm, Sampling

from benchmarks.engine.engine_fixture import load
from benchmarks.engine.measurement import (
    Measurement,
    Sides,
    Target,
    alternating_rates,
    medians,
    per_second,
    ratio,
)

TARGETS = {"structured / free": Target(0.9)}
ROWS, TOKENS = 16, 64
PROMPT = "List the parts of a record as JSON.\n"


def row_schema(row: int) -> dict[str, object]:
    """Return the schema of a row: records with texts, numbers, choices and nested lists."""
    record = {
        "type": "object",
        "properties": {
            f"name_{row}": {"type": "string", "minLength": 4, "maxLength": 24},
            "kind": {"enum": ["part", "whole", f"other {row}"]},
            "size": {"type": "integer", "minimum": 0, "maximum": 10_000 + row},
            "tags": {"type": "array", "items": {"type": "string"}, "minItems": 2, "maxItems": 4},
        },
        "required": [f"name_{row}", "kind", "size", "tags"],
        "additionalProperties": False,
    }
    return {"type": "array", "items": record, "minItems": 24, "maxItems": 32}


def run(rounds: int) -> Measurement:
    """Time 16 requests at once, without and with a schema each."""
    backbone = load()
    engine = LLMEngine(backbone, max_sequences=ROWS, prefix_bytes=0)
    engine.start()
    forms = [OutputForm("json_schema", json.dumps(row_schema(row))) for row in range(ROWS)]
    for form in forms:
        engine.prepare(form)
    prompt = tuple(backbone.tokenizer.encode(PROMPT))
    free = [
        GenerationRequest(prompt, Sampling(seed=row), max_tokens=TOKENS, ignore_eos=True)
        for row in range(ROWS)
    ]
    structured = [
        GenerationRequest(prompt, Sampling(seed=row), max_tokens=TOKENS, form=form)
        for row, form in enumerate(forms)
    ]
    sides: Sides = {
        "free": lambda: per_second(lambda: complete(engine, free), ROWS * TOKENS),
        "structured": lambda: per_second(lambda: complete(engine, structured), ROWS * TOKENS),
    }
    rates = alternating_rates(sides, 3 * rounds)
    engine.close(drain=True)
    return Measurement(
        figures={"weights": backbone.weight_format, "tokens/s": medians(rates)},
        ratios={"structured / free": ratio(rates["structured"], rates["free"])},
        notes=[f"{ROWS} rows of {TOKENS} tokens; each row has a schema of its own"],
    )


def complete(engine: LLMEngine, requests: list[GenerationRequest]) -> None:
    """Run all requests at once to their end; each must generate all its tokens."""
    arrived: queue.Queue[OutputDelta | Exception] = queue.Queue()
    for request in requests:
        engine.submit(request, arrived.put)
    left = len(requests)
    while left:
        delta = arrived.get(timeout=300)
        if isinstance(delta, Exception):
            raise delta
        if delta.finish:
            assert delta.completion_tokens == TOKENS, delta.completion_tokens
            left -= 1
