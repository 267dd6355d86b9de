"""Sequences for tests of single engine modules, without a model."""

from collections.abc import Sequence as Items

import torch
from bem.engine import GenerationRequest, OutputDelta, RequestHandle
from bem.engine.adapter_schedule import AcquiredSegment
from bem.engine.detokenizer import TokenBytes
from bem.engine.output_stream import OutputStream
from bem.engine.prefix_cache import BlockKeys
from bem.engine.sequence import Sequence
from bem.testing import tiny_backbone

WIDTH = 4


def stream_of(
    request: GenerationRequest, version: str = ""
) -> tuple[OutputStream, list[OutputDelta | Exception]]:
    """Return an output stream of the tiny model and the list that its deltas go to."""
    backbone = tiny_backbone()
    deltas: list[OutputDelta | Exception] = []
    handle = RequestHandle(request, deltas.append)
    ends = backbone.end_token_ids
    tokenizer = backbone.tokenizer
    return OutputStream(handle, tokenizer, TokenBytes(tokenizer), ends, version), deltas


def make_sequence(
    prompt_tokens: int, *, slot: int = 0, segments: Items[AcquiredSegment] | None = None
) -> Sequence:
    """Return a sequence of the base model with a prompt of distinct tokens."""
    request = GenerationRequest(tuple(range(slot, slot + prompt_tokens)), max_tokens=8)
    acquired = tuple(segments or [AcquiredSegment(one, None) for one in request.segments])
    return Sequence(
        RequestHandle(request, lambda _: None),
        slot=slot,
        segments=acquired,
        block_keys=BlockKeys("root", acquired, request.prompt_ids),
        lower_states=torch.zeros(2, prompt_tokens + 8, WIDTH),
        output=stream_of(request)[0],
    )


def prefill_lower(sequence: Sequence, tokens: int) -> None:
    """Mark the next tokens as computed in the lower half."""
    states = torch.zeros(tokens, WIDTH)
    sequence.append_lower_states(states, states)
