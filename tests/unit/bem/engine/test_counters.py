"""Tests of the engine's counters."""

from pathlib import Path

from bem.engine import GenerationRequest
from bem.testing import tiny_backbone

from tests.unit.bem.engine.engines import (
    ENDLESS,
    complete,
    encode,
    make_engine,
    submit,
    write_adapters,
)


def test_counters_follow_a_request(tmp_path: Path) -> None:
    """Tokens, steps and adapters are counted; a cancelled request counts as dropped."""
    engine = make_engine(tiny_backbone(), write_adapters(tmp_path), adapters=("alpha",))
    prompt = encode("count me")
    complete(engine, GenerationRequest(prompt, ENDLESS, max_tokens=5, adapter="alpha"))
    submit(engine, GenerationRequest(prompt, ENDLESS, max_tokens=5))[1].cancel()
    engine.turn()

    counters = engine.counters
    assert (counters.prompt_tokens, counters.generated_tokens) == (len(prompt), 5)
    assert (counters.steps, counters.page_ins, counters.dropped) == (4, 1, 1)
    assert (counters.running, counters.waiting) == (0, 0)
