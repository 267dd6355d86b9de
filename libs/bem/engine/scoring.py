"""Scoring: log-likelihoods of given texts in padded batches, without KV cache and sampling."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bem.adapters.bank import AdapterBank, LoadedAdapter
from bem.engine.adapter_schedule import AcquiredSegment, AdapterSchedule
from bem.engine.api import Segment
from bem.engine.decoder import Decoder
from bem.errors import AdapterNotFoundError, InvalidRequestError
from bem.safety import SafetyOverlay

# Rows whose logits over the vocabulary are in memory at once.
HEAD_ROWS = 256


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
    """

    prompt_ids: tuple[int, ...]
    target_ids: tuple[int, ...]
    adapter: str | None = None
    adapter_scale: float = 1.0
    safety_strength: float = 0.0

    @property
    def tokens(self) -> int:
        """Number of tokens of prompt and target together."""
        return len(self.prompt_ids) + len(self.target_ids)


class Scorer:
    """Scores batches of texts; running sequences are not touched.

    Args:
        decoder: Forward pass in two halves.
        bank: Adapters of the model, or None.
        context_tokens: Limit of prompt and target together.
        device: Device of the model.
        safety: Safety adapter in the bank, or None.
    """

    def __init__(
        self,
        decoder: Decoder,
        bank: AdapterBank | None,
        context_tokens: int,
        device: torch.device,
        safety: SafetyOverlay | None = None,
    ) -> None:
        self._decoder, self._bank, self._safety = decoder, bank, safety
        self._context_tokens, self._device = context_tokens, device

    def score(self, requests: Sequence[ScoreRequest]) -> list[list[float]]:
        """Return the log-probability of each target token, in nats, at most 0.

        The adapter's code is computed from the prompt and recomputed along the target, as when the
        target is generated. Texts are padded at their end, where no token before can attend.

        Args:
            requests: Requests of one adapter and one scale.

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
        adapter = self._acquire(requests[0])
        try:
            return self._score(requests, adapter)
        finally:
            if adapter and self._bank:
                self._bank.release(adapter)

    def _acquire(self, first: ScoreRequest) -> LoadedAdapter | None:
        if first.adapter is None:
            return None
        if self._bank is None:
            raise AdapterNotFoundError(first.adapter, [])
        if first.adapter_scale == 0:
            self._bank.find(first.adapter)
            return None
        return self._bank.acquire(first.adapter)

    def _score(
        self, requests: Sequence[ScoreRequest], adapter: LoadedAdapter | None
    ) -> list[list[float]]:
        longest = max(one.tokens for one in requests) - 1  # the last token predicts nothing
        ids = torch.zeros(len(requests), longest, dtype=torch.long)
        for row, one in enumerate(requests):
            inputs = [*one.prompt_ids, *one.target_ids][:-1]
            ids[row, : len(inputs)] = torch.tensor(inputs)
        plan = self._decoder.plan_full_texts(len(requests), longest)
        hidden, features = self._decoder.lower(ids.to(self._device), plan, transient=True)
        if self._bank:
            _bind(self._bank, self._safety, adapter, requests, features)
        hidden = self._decoder.upper(hidden, plan, transient=True)
        states = [
            hidden[row, len(one.prompt_ids) - 1 : one.tokens - 1]
            for row, one in enumerate(requests)
        ]
        targets = torch.tensor([token for one in requests for token in one.target_ids])
        logprobs = self._target_logprobs(torch.cat(states), targets.to(self._device))
        lengths = [len(one.target_ids) for one in requests]
        return [part.tolist() for part in logprobs.split(lengths)]

    def _target_logprobs(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Return the log-probability of ``targets [K]`` after the states ``hidden [K, F]``."""
        logprobs = []
        for begin in range(0, len(targets), HEAD_ROWS):
            rows = slice(begin, begin + HEAD_ROWS)
            logprobs.append(self._decoder.target_logprobs(hidden[rows], targets[rows]).clamp(max=0))
        return torch.cat(logprobs).cpu()


def _bind(
    bank: AdapterBank,
    safety: SafetyOverlay | None,
    adapter: LoadedAdapter | None,
    requests: Sequence[ScoreRequest],
    features: Tensor,
) -> None:
    """Set the codes of each position of each text: the adapter's and the safety adapter's."""
    columns = []
    if adapter is not None and adapter.slot is not None:
        columns.append((adapter.slot, _adapter_codes(bank.rank, adapter, requests, features)))
    strengths = _safety_strengths(safety, requests, features)
    if safety and any(strengths):
        codes = torch.zeros(*features.shape[:2], bank.rank, device=features.device)
        codes[..., : safety.rank] = torch.tensor(strengths, device=codes.device)[:, None, None]
        columns.append((safety.slot, codes))
    if not columns:
        bank.row_codes.clear()
        return
    slots = torch.tensor([slot for slot, _ in columns], device=features.device)
    codes = torch.stack([codes for _, codes in columns], dim=2)
    bank.row_codes.set(slots.expand(len(requests), -1), codes)


def _adapter_codes(
    rank: int, adapter: LoadedAdapter, requests: Sequence[ScoreRequest], features: Tensor
) -> Tensor:
    """Return the adapter's code at each position, [rows, positions, rank]."""
    codes = torch.zeros(*features.shape[:2], rank, device=features.device)
    for row, one in enumerate(requests):
        segment = Segment(0, len(one.prompt_ids), one.adapter, one.adapter_scale)
        schedule = AdapterSchedule([AcquiredSegment(segment, adapter)], features[row])
        begin, end = 0, one.tokens - 1
        while begin < end:
            span = schedule.span_at(begin)
            span_end = min(end, span.end or end)
            if span.code is not None:
                codes[row, begin:span_end, : adapter.rank] = span.code
            begin = span_end
    return codes


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
