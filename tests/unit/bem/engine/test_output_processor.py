"""Tests of the output processor."""

import torch
from bem.engine import GenerationRequest, RequestHandle, Sampling
from bem.engine.adapter_schedule import AcquiredSegment
from bem.engine.counters import EngineCounters
from bem.engine.output_processor import OutputProcessor
from bem.testing import tiny_backbone

from tests.unit.bem.engine.engines import encode
from tests.unit.bem.engine.sequences import make_sequence


def test_tokens_are_appended_until_the_request_ends() -> None:
    """Each sampled token becomes the next input; the last one ends the sequence."""
    backbone, counters = tiny_backbone(), EngineCounters()
    processor = OutputProcessor(backbone, 512, counters)
    token = encode("a")[0]
    logits = torch.zeros(len(backbone.tokenizer))
    logits[token] = 10
    request = GenerationRequest((1, 2), Sampling(temperature=0), max_tokens=2)
    handle = RequestHandle(request, lambda _: None)
    sequence = make_sequence(2)
    segments = tuple(AcquiredSegment(one, None) for one in request.segments)
    sequence.output = processor.open(handle, segments)

    assert not processor.process(sequence, logits)
    assert (sequence.next_token, sequence.token_ids[-1]) == (token, token)
    assert processor.process(sequence, logits)
    assert counters.generated_tokens == 2
    assert len(sequence.token_ids) == 3
