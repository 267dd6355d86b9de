"""Scoring: log-likelihoods of given texts in padded batches, without KV cache and sampling."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bem.engine.adapter_binding import AdapterBinding
from bem.engine.adapter_schedule import AcquiredSegment, AdapterSchedule, CodeSpan
from bem.engine.api import ScaledAdapter, Segment
from bem.engine.decoder import Decoder
from bem.errors import InvalidRequestError
from bem.safety import SafetyOverlay


@dataclass(frozen=True)
class ScoreRequest:
    """A request for the log-likelihood of a text.

    Attributes:
        prompt_ids: Token ids before the text, at least one.
        target_ids: Token ids to score, at least one.
        adapter: Name of a loaded adapter, or None for the base model.
        adapter_scale: Factor of the adapter's code in [0, 2].
        safety_strength: Factor of the safety adapter in [0, 1], multiplied by the value head's
            result for the prompt, as when the target is generated.
        further_adapters: Adapters that are composed with ``adapter``, in the order of precedence.
    """

    prompt_ids: tuple[int, ...]
    target_ids: tuple[int, ...]
    adapter: str | None = None
    adapter_scale: float = 1.0
    safety_strength: float = 0.0
    further_adapters: tuple[ScaledAdapter, ...] = ()

    @property
    def segment(self) -> Segment:
        """The text as one segment of its adapters."""
        return Segment(
            0,
            len(self.prompt_ids),
            self.adapter,
            self.adapter_scale,
            further=self.further_adapters,
        )

    @property
    def adapters(self) -> tuple[ScaledAdapter, ...]:
        """Adapters that take part, in order; texts of one batch have the same."""
        return self.segment.active

    @property
    def tokens(self) -> int:
        """Number of tokens of prompt and target together."""
        return len(self.prompt_ids) + len(self.target_ids)


class Scorer:
    """Scores batches of texts; running sequences are not touched.

    Args:
        decoder: Forward pass in two halves.
        binding: Leases adapters and evaluates their compositions.
        context_tokens: Limit of prompt and target together.
        device: Device of the model.
        safety: Safety adapter in the bank, or None.
    """

    def __init__(
        self,
        decoder: Decoder,
        binding: AdapterBinding,
        context_tokens: int,
        device: torch.device,
        safety: SafetyOverlay | None = None,
    ) -> None:
        self._decoder, self._binding, self._safety = decoder, binding, safety
        self._context_tokens, self._device = context_tokens, device

    def score(self, requests: Sequence[ScoreRequest]) -> list[list[float]]:
        """Return the log-probability of each target token, in nats, at most 0.

        The adapter's code is computed from the prompt and recomputed along the target, as when the
        target is generated. Texts are padded at their end, where no token before can attend.

        Args:
            requests: Requests of the same adapters at the same scales.

        Raises:
            AdapterNotFoundError: The adapter is not loaded.
            InvalidRequestError: A prompt or target is empty, or both exceed the context.
            SlotsFullError: Requests use all slots of the adapter bank.
        """
        for one in requests:
            if not one.prompt_ids or not one.target_ids or one.tokens > self._context_tokens:
                raise InvalidRequestError(
                    "target_ids",
                    f"{len(one.prompt_ids)} prompt and {len(one.target_ids)} target tokens; "
                    f"each needs 1, and together at most {self._context_tokens} are allowed",
                )
        acquired = self._binding.acquire_segment(requests[0].segment)
        try:
            return self._score(requests, acquired)
        finally:
            self._binding.release([acquired])

    def _score(
        self, requests: Sequence[ScoreRequest], acquired: AcquiredSegment
    ) -> list[list[float]]:
        longest = max(one.tokens for one in requests) - 1  # the last token predicts nothing
        ids = torch.zeros(len(requests), longest, dtype=torch.long)
        for row, one in enumerate(requests):
            inputs = [*one.prompt_ids, *one.target_ids][:-1]
            ids[row, : len(inputs)] = torch.tensor(inputs)
        plan = self._decoder.plan_full_texts(len(requests), longest)
        with self._lower_codes(acquired, requests, ids):
            hidden, features = self._decoder.lower(ids.to(self._device), plan, transient=True)
        self._bind(acquired, requests, features)
        hidden = self._decoder.upper(hidden, plan, transient=True)
        states = [
            hidden[row, len(one.prompt_ids) - 1 : one.tokens - 1]
            for row, one in enumerate(requests)
        ]
        targets = torch.tensor([token for one in requests for token in one.target_ids])
        logprobs = self._target_logprobs(torch.cat(states), targets.to(self._device))
        lengths = [len(one.target_ids) for one in requests]
        return [part.tolist() for part in logprobs.split(lengths)]

    @contextmanager
    def _lower_codes(
        self, acquired: AcquiredSegment, requests: Sequence[ScoreRequest], ids: Tensor
    ) -> Iterator[None]:
        """Set the codes of each position in the lower half, if the adapter adapts it."""
        bank, adapter = self._binding.bank, acquired.adapter
        if bank is None or adapter is None or adapter.slot is None or not adapter.adapts_lower:
            yield
            return
        width = adapter.controller.inner.in_features
        codes = torch.zeros(*ids.shape, 1, bank.rank, device=self._device)
        for row, one in enumerate(requests):
            no_features = torch.zeros(0, width, device=self._device)
            for begin, end, span in self._spans(acquired, one, no_features):
                if span.code is not None:
                    codes[row, begin:end, 0, : len(span.code)] = span.code
        slots = torch.full((len(requests), 1), adapter.slot, device=self._device)
        bank.lower_codes.set(slots, codes)
        try:
            yield
        finally:
            bank.lower_codes.clear()

    def _target_logprobs(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Return the log-probability of ``targets [K]`` after the states ``hidden [K, F]``."""
        logprobs, size = [], self._decoder.head_rows
        for begin in range(0, len(targets), size):
            rows = slice(begin, begin + size)
            logprobs.append(self._decoder.target_logprobs(hidden[rows], targets[rows]).clamp(max=0))
        return torch.cat(logprobs).cpu()

    def _bind(
        self, acquired: AcquiredSegment, requests: Sequence[ScoreRequest], features: Tensor
    ) -> None:
        """Set the codes of each position of each text: the adapters' and the safety adapter's."""
        bank, safety = self._binding.bank, self._safety
        if bank is None:
            return
        strengths = _safety_strengths(safety, requests, features)
        used = [one.slot for one, _ in acquired.members if one.slot is not None]
        safe = safety if safety and any(strengths) else None
        if safe:
            used.append(safe.slot)
        if not used:
            bank.row_codes.clear()
            return
        codes = torch.zeros(*features.shape[:2], len(used), bank.rank, device=features.device)
        factors = torch.ones(len(bank.factors.sites), *features.shape[:2], device=codes.device)
        for row, one in enumerate(requests):
            for begin, end, span in self._spans(acquired, one, features[row]):
                for column, (_, code) in enumerate(span.parts):
                    codes[row, begin:end, column, : len(code)] = code
                found = self._binding.code_factors(span, strengths[row])
                if found is not None:
                    factors[:, row, begin:end] = found.to(factors)[:, None]
        if safe:
            strength = torch.tensor(strengths, device=codes.device)[:, None, None]
            codes[..., -1, : safe.rank] = strength
        slots = torch.tensor(used, device=features.device).expand(len(requests), -1)
        bank.row_codes.set(slots, codes, factors if acquired.composed else None)

    def _spans(
        self, acquired: AcquiredSegment, request: ScoreRequest, features: Tensor
    ) -> Iterator[tuple[int, int, CodeSpan]]:
        """Yield the code spans of a text without its last token, with first and end position."""
        segments = [
            replace(acquired, segment=one) if one.active else AcquiredSegment(one, None)
            for one in self._binding.activate((request.segment,), request.prompt_ids)
        ]
        schedule = AdapterSchedule(segments, features)
        begin, end = 0, request.tokens - 1
        while begin < end:
            span = schedule.span_at(begin)
            span_end = min(end, span.end or end)
            yield begin, span_end, span
            begin = span_end


def _safety_strengths(
    safety: SafetyOverlay | None, requests: Sequence[ScoreRequest], features: Tensor
) -> list[float]:
    """Return the factor of the safety adapter's code for each text, from its prompt."""
    if safety is None:
        return [0.0] * len(requests)
    return [
        safety.request_strength(
            features[row, : len(one.prompt_ids)].float().mean(0), one.safety_strength
        )
        for row, one in enumerate(requests)
    ]
