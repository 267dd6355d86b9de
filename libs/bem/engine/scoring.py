"""Log-likelihoods of given text: whole texts in padded batches, no cache and no sampling."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bem.adapters.bank import AdapterBank, LoadedAdapter
from bem.engine.batch import Batch
from bem.engine.codes import Codes, Leased
from bem.engine.requests import Segment
from bem.errors import AdapterNotFoundError, InvalidRequestError

# Positions whose logits over the vocabulary are in memory at once.
HEAD_ROWS = 256


@dataclass(frozen=True)
class ScoreRequest:
    """Asks how likely a text is.

    Attributes:
        prompt_ids: What comes before it, at least one token.
        target_ids: The tokens to score, at least one.
        adapter: Name of a loaded adapter, or None for the base model.
        adapter_scale: Factor of the adapter's code in [0, 2].
    """

    prompt_ids: tuple[int, ...]
    target_ids: tuple[int, ...]
    adapter: str | None = None
    adapter_scale: float = 1.0

    @property
    def tokens(self) -> int:
        """All its tokens."""
        return len(self.prompt_ids) + len(self.target_ids)


def score_batch(batch: Batch, requests: Sequence[ScoreRequest]) -> list[list[float]]:
    """Return the log-probability of each target token, in nats, at most 0.

    The code of an adapter is set from the prompt and moves on along the target, as when the target
    is generated. Texts are padded at their end, where nothing before can see it.

    Args:
        batch: Whose model and adapters are used; its rows are not touched.
        requests: All of one adapter, scale included.

    Raises:
        InvalidRequestError: A prompt or target is empty, or both exceed the context.
        AdapterNotFoundError: The adapter is not loaded.
        SlotsFullError: Requests use all slots of the adapters.
    """
    for one in requests:
        if not one.prompt_ids or not one.target_ids or one.tokens > batch.context_tokens:
            raise InvalidRequestError(
                "target_ids",
                f"prompt and target have {len(one.prompt_ids)} and {len(one.target_ids)} tokens; "
                f"each needs 1, both fit {batch.context_tokens}",
            )
    adapter = _lease(batch.bank, requests[0])
    try:
        return _score(batch, requests, adapter)
    finally:
        if adapter and batch.bank:
            batch.bank.release(adapter)


def _lease(bank: AdapterBank | None, first: ScoreRequest) -> LoadedAdapter | None:
    if first.adapter is None:
        return None
    if bank is None:
        raise AdapterNotFoundError(first.adapter, [])
    if first.adapter_scale == 0:
        bank.find(first.adapter)
        return None
    return bank.acquire(first.adapter)


def _score(
    batch: Batch, requests: Sequence[ScoreRequest], adapter: LoadedAdapter | None
) -> list[list[float]]:
    decoder = batch.decoder
    longest = max(one.tokens for one in requests) - 1  # the last token predicts nothing
    ids = torch.zeros(len(requests), longest, dtype=torch.long)
    for row, one in enumerate(requests):
        known = [*one.prompt_ids, *one.target_ids][:-1]
        ids[row, : len(known)] = torch.tensor(known)
    span = decoder.whole_span(len(requests), longest)
    hidden, features = decoder.lower(ids.to(batch.device), span, scratch=True)
    if batch.bank:
        _set_codes(batch.bank, adapter, requests, features)
    hidden = decoder.upper(hidden, span, scratch=True)
    parts = [
        hidden[row, len(one.prompt_ids) - 1 : one.tokens - 1] for row, one in enumerate(requests)
    ]
    wanted = torch.tensor([token for one in requests for token in one.target_ids])
    found = _log_probabilities(batch, torch.cat(parts), wanted.to(batch.device))
    return [part.tolist() for part in found.split([len(one.target_ids) for one in requests])]


def _set_codes(
    bank: AdapterBank,
    adapter: LoadedAdapter | None,
    requests: Sequence[ScoreRequest],
    features: Tensor,
) -> None:
    """Give each position of each text its code."""
    if adapter is None or adapter.slot is None:
        bank.row_codes.clear()
        return
    rows, steps, _ = features.shape
    codes = torch.zeros(rows, steps, 1, bank.rank, device=features.device)
    for row, one in enumerate(requests):
        segment = Segment(0, len(one.prompt_ids), one.adapter, one.adapter_scale)
        known = Codes([Leased(segment, adapter)], features[row])
        begin, end = 0, one.tokens - 1
        while begin < end:
            stretch = known.at(begin)
            after = min(end, stretch.end or end)
            if stretch.code is not None:
                codes[row, begin:after, 0, : adapter.rank] = stretch.code
            begin = after
    bank.row_codes.set(torch.full((rows, 1), adapter.slot, device=features.device), codes)


def _log_probabilities(batch: Batch, hidden: Tensor, wanted: Tensor) -> Tensor:
    """Return the log-probability of ``wanted [K]`` after the states ``hidden [K, F]``."""
    found = []
    for begin in range(0, len(wanted), HEAD_ROWS):
        here = slice(begin, begin + HEAD_ROWS)
        found.append(batch.decoder.likelihoods(hidden[here], wanted[here]).clamp(max=0))
    return torch.cat(found).cpu()
