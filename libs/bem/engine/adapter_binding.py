"""Adapter binding: leases adapters for requests and sets the codes of each forward pass.

The adapter bank keeps the factors of ``slots`` adapters in every site; a site multiplies row i by
the slot and code (gate vector) that the binding set for row i.

Example: rows 0, 1 and 2 run adapter ``a`` (slot 3, rank 8), the base model and adapter ``b`` (slot
1, rank 4); the bank's rank is 16 and no row uses the safety adapter. The binding sets slots
``[[3], [3], [1]]`` and codes ``[3, 1, 16]``: ``a``'s 8 gates followed by 8 zeros, 16 zeros, and
``b``'s 4 gates followed by 12 zeros. The base row names slot 3, which is in use anyway, and its
zero code makes the step zero. With a safety adapter in slot 0 at strength 0.5 for row 1, a second
column is added: slots ``[[3, 0], [3, 0], [1, 0]]`` and codes whose second column is 0.5 for row 1
and zero elsewhere.
"""

from collections.abc import Sequence as Items

import torch

from bem.adapters.bank import AdapterBank, LoadedAdapter
from bem.engine.adapter_schedule import AcquiredSegment, CodeSpan
from bem.engine.api import GenerationRequest, Segment
from bem.engine.sequence import Sequence
from bem.errors import AdapterNotFoundError, InvalidRequestError
from bem.safety import SafetyOverlay


class AdapterBinding:
    """Binds the sequences of a batch to adapters of the bank.

    Args:
        bank: Adapters of the model, or None.
        safety: Safety adapter in the bank, or None.
        device: Device of the model.
    """

    def __init__(
        self, bank: AdapterBank | None, safety: SafetyOverlay | None, device: torch.device
    ) -> None:
        self.bank = bank
        self._safety = safety
        self._device = device

    def acquire(self, request: GenerationRequest) -> tuple[AcquiredSegment, ...]:
        """Lease the current versions of a request's adapters.

        Raises:
            AdapterNotFoundError: An adapter is not loaded.
            ArtifactFormatError: An adapter's folder is gone or broken.
            ArtifactTamperedError: An adapter's folder holds another version than the loaded one.
            InvalidRequestError: The request names more adapters than the bank has slots.
            SlotsFullError: Other requests use all slots; a later call succeeds.
        """
        wanted = request.segments
        names = {one.adapter for one in wanted if one.adapter is not None and one.scale}
        if self.bank and len(names) > self.bank.slots:
            raise InvalidRequestError(
                "earlier_segments",
                f"{len(names)} adapters in one request; "
                f"{self.bank.slots} can be resident at once; name fewer",
            )
        segments: list[AcquiredSegment] = []
        try:
            # One by one: the leases taken before an error are released.
            for segment in wanted:
                segments.append(self._acquire(segment))  # noqa: PERF401
        except BaseException:
            self.release(segments)
            raise
        return tuple(segments)

    def release(self, segments: Items[AcquiredSegment]) -> None:
        """Release the leases of segments."""
        for one in segments:
            if one.adapter and self.bank:
                self.bank.release(one.adapter)

    def clear(self) -> None:
        """Bind no adapter in the forward passes that follow."""
        if self.bank:
            self.bank.row_codes.clear()

    def resolve_safety_strength(self, sequence: Sequence) -> bool:
        """Compute the strength of the safety adapter once the prompt has passed the lower half.

        Returns:
            Whether the strength is final, so that the upper half may be computed.
        """
        strength = sequence.handle.request.safety_strength
        if self._safety is None or strength == 0 or sequence.safety_strength is not None:
            return True
        if not sequence.lower_prefilled:
            return False
        features = sequence.lower_states[1, : sequence.prompt_tokens].float().mean(0)
        sequence.safety_strength = self._safety.request_strength(features, strength)
        if sequence.safety_strength:
            # Benign requests get strength 0 exactly and keep sharing blocks with each other.
            sequence.block_keys.add_safety(f"{self._safety.version}*{sequence.safety_strength!r}")
        return True

    def bind(self, sequences: Items[Sequence], spans: Items[CodeSpan]) -> None:
        """Set slot and code of each row for the next pass through the upper half."""
        if self.bank is None:
            return
        used = [one.adapter.slot for one in spans if one.adapter and one.adapter.slot is not None]
        safety = self._safety if any(one.safety_strength for one in sequences) else None
        if safety:
            used.append(safety.slot)
        if not used:
            self.bank.row_codes.clear()
            return
        columns = 2 if safety else 1
        codes = torch.zeros(len(spans), columns, self.bank.rank, device=self._device)
        # A row of the base model names a slot that is in use anyway: no further factors are read.
        slots = torch.full((len(spans), columns), used[0], dtype=torch.int64)
        for row, (sequence, span) in enumerate(zip(sequences, spans, strict=True)):
            if span.adapter and span.adapter.slot is not None and span.code is not None:
                slots[row, 0] = span.adapter.slot
                codes[row, 0, : len(span.code)] = span.code
            if safety:
                slots[row, 1] = safety.slot
                codes[row, 1, : safety.rank] = sequence.safety_strength or 0.0
        self.bank.row_codes.set(slots.to(self._device), codes)

    def _acquire(self, segment: Segment) -> AcquiredSegment:
        if segment.adapter is None:
            return AcquiredSegment(segment, None)
        if self.bank is None:
            raise AdapterNotFoundError(segment.adapter, [])
        if segment.scale == 0:
            return AcquiredSegment(segment, None, self.bank.find(segment.adapter).version)
        loaded: LoadedAdapter = self.bank.acquire(segment.adapter)
        return AcquiredSegment(segment, loaded, loaded.version)
