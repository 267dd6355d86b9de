"""Sequence: the state of one running request."""

import time

import torch
from torch import Tensor

from bem.engine.adapter_schedule import AcquiredSegment, AdapterSchedule, CodeSpan
from bem.engine.api import RequestHandle
from bem.engine.latencies import RequestTimes
from bem.engine.output_stream import OutputStream
from bem.engine.prefix_cache import BlockKeys


class Sequence:
    """State of one request between steps; only the engine's thread touches it.

    Args:
        handle: The request.
        slot: Slot of the KV cache.
        segments: Segments of the request with their leased adapters.
        block_keys: Prefix-cache keys of the sequence.
        lower_states: ``[2, N, F]`` for the N tokens that the sequence may reach: the state before
            the first adapter site, and the state that controllers read.
        output: Output stream of the request.

    Attributes:
        token_ids: Prompt and generated tokens.
        next_token: Token that the next decode step computes.
        lower_computed_tokens: Tokens that have passed the lower half.
        computed_tokens: Tokens that have passed both halves.
        safety_strength: Factor of the safety adapter; None until the prompt has passed the lower
            half, and always None for requests that ask for no safety adapter.
        composed_factors: Last code of a composition, and the factors ``[S]`` that keep its sites in
            the trust region; None instead of factors that are 1 everywhere.
        cached_blocks: Number of leading blocks known to be in the prefix cache, for the lower and
            the upper half.
        reused_tokens: Prompt tokens whose keys and values came from the prefix cache.
        evicted_tokens: Positions that a cache policy has evicted from the slot.
        times: Moments of the request, for its latencies.
        decoded_in: Number of the last decode step that computed it; 0 before the first.
    """

    def __init__(
        self,
        handle: RequestHandle,
        *,
        slot: int,
        segments: tuple[AcquiredSegment, ...],
        block_keys: BlockKeys,
        lower_states: Tensor,
        output: OutputStream,
    ) -> None:
        self.handle = handle
        self.slot = slot
        self.segments = segments
        self.block_keys = block_keys
        self.lower_states = lower_states
        self.output = output
        self.schedule = AdapterSchedule(segments, lower_states[1])
        self.admitted_at = time.monotonic()
        self.times = RequestTimes(handle.arrived_at)
        self.token_ids = list(handle.request.prompt_ids)
        self.prompt_tokens = len(self.token_ids)
        self.next_token = 0
        self.lower_computed_tokens = 0
        self.computed_tokens = 0
        self.safety_strength: float | None = None
        self.composed_factors: tuple[CodeSpan, Tensor | None] | None = None
        self.cached_blocks = [0, 0]
        self.reused_tokens = 0
        self.evicted_tokens = 0
        self.decoded_in = 0

    @property
    def is_decoding(self) -> bool:
        """Whether the prompt has passed both halves."""
        return self.computed_tokens >= self.prompt_tokens

    @property
    def stored_tokens(self) -> int:
        """Places of the slot that the sequence holds: computed tokens without evicted ones."""
        return self.computed_tokens - self.evicted_tokens

    @property
    def lower_prefilled(self) -> bool:
        """Whether the prompt has passed the lower half."""
        return self.lower_computed_tokens >= self.prompt_tokens

    @property
    def remaining_prefill(self) -> int:
        """Prompt tokens that still have to pass a half, counted once per half."""
        return 2 * self.prompt_tokens - self.lower_computed_tokens - self.computed_tokens

    def computed_in(self, *, upper: bool) -> int:
        """Return how many tokens have passed one half."""
        return self.computed_tokens if upper else self.lower_computed_tokens

    def append_lower_states(self, hidden: Tensor, features: Tensor) -> None:
        """Store the lower half's results ``[T, F]`` of the next tokens."""
        end = self.lower_computed_tokens + hidden.shape[0]
        self.lower_states[0, self.lower_computed_tokens : end] = hidden
        self.lower_states[1, self.lower_computed_tokens : end] = features
        self.lower_computed_tokens = end

    def report_prompt(self) -> None:
        """Give the output stream what the first delta says of the prompt."""
        self.output.cached_tokens = self.reused_tokens
        if self.handle.request.pools_prompt:
            self.output.prompt_state = self.lower_states[1, : self.prompt_tokens].float().mean(0)


def allocate_lower_states(tokens: int, like: Tensor) -> Tensor:
    """Return an empty ``[2, tokens, F]`` tensor with the width and type of ``like [V, F]``."""
    return torch.empty(2, tokens, like.shape[1], dtype=like.dtype, device=like.device)
