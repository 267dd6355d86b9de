"""Tests of the model runner on the tiny model."""

import torch
from bem.engine.adapter_binding import AdapterBinding
from bem.engine.counters import EngineCounters
from bem.engine.decode_steps import EagerDecodeSteps
from bem.engine.decoder import Decoder
from bem.engine.kv_cache import KVCache
from bem.engine.model_runner import ModelRunner
from bem.engine.prefill import PrefillBatch, PrefillChunk
from bem.engine.sequence import Sequence, allocate_lower_states
from bem.testing import tiny_backbone

from tests.unit.bem.engine.sequences import make_sequence


def test_chunks_and_a_step_give_the_logits_of_transformers() -> None:
    """Two padded chunks per half, then one decode step, give the reference logits."""
    backbone, counters = tiny_backbone(), EngineCounters()
    embedding = backbone.model.model.embed_tokens.weight
    binding = AdapterBinding(None, None, embedding.device)
    kv_cache = KVCache(backbone, slots=2, context_tokens=64)
    decoder = Decoder(backbone, None, kv_cache)
    steps = EagerDecodeSteps(decoder, embedding.device)
    runner = ModelRunner(decoder, steps, binding, embedding, counters)
    sequences = [make_sequence(9, slot=0), make_sequence(7, slot=1)]
    for sequence in sequences:
        sequence.lower_states = allocate_lower_states(16, embedding)

    with torch.inference_mode():
        for begin, ends in ((0, (5, 5)), (5, (9, 7))):
            runner.prefill_lower(batch_of(sequences, begin, ends, upper=False))
        runner.prefill_upper(batch_of(sequences, 0, (5, 5), upper=True))
        complete = runner.prefill_upper(batch_of(sequences, 5, (9, 7), upper=True))
        for sequence in sequences:
            sequence.next_token = 11
        decoded = runner.decode(sequences)
        for row, sequence in enumerate(sequences):
            ids = torch.tensor([[*sequence.token_ids, 11]])
            expected = tiny_backbone().model(ids).logits[0]
            assert complete[row][0] is sequence
            assert torch.allclose(complete[row][1], expected[-2], atol=1e-4)
            assert torch.allclose(decoded[row], expected[-1], atol=1e-4)

    assert (counters.passes, counters.steps, counters.prompt_tokens) == (5, 1, 16)
    assert [one.computed_tokens for one in sequences] == [10, 8]


def batch_of(
    sequences: list[Sequence], begin: int, ends: tuple[int, int], *, upper: bool
) -> PrefillBatch:
    """A batch of one chunk per sequence."""
    chunks = [PrefillChunk(one, begin, end) for one, end in zip(sequences, ends, strict=True)]
    batch = PrefillBatch(chunks[0], upper=upper, token_limit=64, context_tokens=64)
    assert batch.try_add(chunks[1])
    return batch
