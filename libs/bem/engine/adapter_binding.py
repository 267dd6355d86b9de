"""Adapter binding: leases adapters for requests and sets the codes of each forward pass.

The adapter bank keeps the factors of ``slots`` adapters in every site; a site multiplies row i by
the slot and code (gate vector) that the binding set for row i.

Example: rows 0, 1 and 2 run adapter ``a`` (slot 3, rank 8), the base model and adapter ``b`` (slot
1, rank 4); the bank's rank is 16 and no row uses the safety adapter. The binding sets slots
``[[3], [3], [1]]`` and codes ``[3, 1, 16]``: ``a``'s 8 gates followed by 8 zeros, 16 zeros, and
``b``'s 4 gates followed by 12 zeros. The base row names slot 3, which is in use anyway, and its
zero code makes the step zero. With a safety adapter in slot 0 at strength 0.5 for row 1, a second
column is added: slots ``[[3, 0], [3, 0], [1, 0]]`` and codes whose second column is 0.5 for row 1
and zero elsewhere. A row that composes three adapters adds two more columns, and factors
``[sites, 3]`` that scale its codes into the trust region at each site and are 1 for the other rows.
"""

from collections.abc import Iterator
from collections.abc import Sequence as Items
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor

from bem.adapters.bank import AdapterBank
from bem.composition import Composer, CompositionSettings
from bem.engine.adapter_schedule import AcquiredSegment, CodeSpan
from bem.engine.api import GenerationRequest, ScaledAdapter, Segment
from bem.engine.counters import EngineCounters
from bem.engine.sequence import Sequence
from bem.errors import AdapterNotFoundError, InvalidRequestError
from bem.safety import SafetyOverlay


class AdapterBinding:
    """Binds the sequences of a batch to adapters of the bank.

    Args:
        bank: Adapters of the model, or None.
        safety: Safety adapter in the bank, or None.
        device: Device of the model.
        composition: How the adapters of one request are composed.
        counters: Counts compositions and those that the trust region scales; None counts nothing.
    """

    def __init__(
        self,
        bank: AdapterBank | None,
        safety: SafetyOverlay | None,
        device: torch.device,
        composition: CompositionSettings | None = None,
        counters: EngineCounters | None = None,
    ) -> None:
        self.bank = bank
        self._safety = safety
        self._device = device
        self._counters = counters or EngineCounters()
        self._settings = composition or CompositionSettings()
        pinned = (safety.slot, safety.rank) if safety else None
        self.composer = Composer(bank, self._settings, pinned) if bank else None

    def acquire(self, request: GenerationRequest) -> tuple[AcquiredSegment, ...]:
        """Lease the current versions of a request's adapters.

        Raises:
            AdapterNotFoundError: An adapter is not loaded.
            ArtifactFormatError: An adapter's folder is gone or broken.
            ArtifactTamperedError: An adapter's folder holds another version than the loaded one.
            InvalidRequestError: The request names more adapters than the bank has slots, or
                composes more than are allowed.
            SlotsFullError: Other requests use all slots; a later call succeeds.
        """
        wanted = self.activate(request.segments, request.prompt_ids)
        self._check_counts(wanted)  # before the first lease
        segments: list[AcquiredSegment] = []
        try:
            # One by one: the leases taken before an error are released.
            for segment in wanted:
                segments.append(self.acquire_segment(segment))  # noqa: PERF401
        except BaseException:
            self.release(segments)
            raise
        return tuple(segments)

    def activate(self, segments: Items[Segment], prompt: Items[int]) -> tuple[Segment, ...]:
        """Begin activated adapters where the prompt invokes them, as peft does.

        The last occurrence of the invocation tokens begins the last segment; earlier turns of the
        adapter ran on another prompt and are the base model's here.

        Args:
            segments: Segments of a request.
            prompt: Token ids of its prompt.

        Raises:
            InvalidRequestError: The prompt does not contain the invocation tokens.
        """
        found = []
        for place, segment in enumerate(segments):
            loaded = self.bank.get(segment.adapter) if self.bank and segment.adapter else None
            if loaded is None or not (tokens := loaded.card.invocation_tokens):
                found.append(segment)
            elif place + 1 < len(segments):
                found.append(replace(segment, adapter=None))
            else:
                start = _invocation(loaded.name, tokens, prompt)
                if start > segment.start:
                    found.append(replace(segment, adapter=None, further=()))
                found.append(replace(segment, start=max(start, segment.start)))
        return tuple(found)

    def release(self, segments: Items[AcquiredSegment]) -> None:
        """Release the leases of segments."""
        for one in segments:
            if one.composed and self.composer:
                self.composer.release(one.composed)
            elif one.adapter and self.bank:
                self.bank.release(one.adapter)

    @contextmanager
    def lower_codes(self, spans: Items[CodeSpan]) -> Iterator[None]:
        """Bind the adapters that adapt the lower half in the passes through it within the context.

        Args:
            spans: Adapter and code of each row; others than those are left out.
        """
        adapting = [one if one.adapter and one.adapter.adapts_lower else None for one in spans]
        used = [one.adapter.slot for one in adapting if one and one.adapter]
        if self.bank is None or not used:
            yield
            return
        codes = torch.zeros(len(spans), 1, self.bank.rank, device=self._device)
        slots = torch.full((len(spans), 1), used[0] or 0, dtype=torch.int64)
        for row, span in enumerate(adapting):
            if span and span.adapter and span.adapter.slot is not None and span.code is not None:
                slots[row, 0] = span.adapter.slot
                codes[row, 0, : len(span.code)] = span.code
        self.bank.lower_codes.set(slots.to(self._device), codes)
        try:
            yield
        finally:
            # Passes through the lower half alone, such as those of embeddings, bind nothing.
            self.bank.lower_codes.clear()

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
        safety = self._safety if any(one.safety_strength for one in sequences) else None
        used = [part.slot for span in spans for part, _ in span.parts if part.slot is not None]
        if safety:
            used.append(safety.slot)
        if not used:
            self.bank.row_codes.clear()
            return
        named = max(1, *(len(span.parts) for span in spans))
        columns = named + 1 if safety else named
        codes = torch.zeros(len(spans), columns, self.bank.rank, device=self._device)
        # A row of the base model names a slot that is in use anyway: no further factors are read.
        slots = torch.full((len(spans), columns), used[0], dtype=torch.int64)
        for row, (sequence, span) in enumerate(zip(sequences, spans, strict=True)):
            for column, (adapter, code) in enumerate(span.parts):
                if adapter.slot is not None:
                    slots[row, column] = adapter.slot
                    codes[row, column, : len(code)] = code
            if safety:
                slots[row, -1] = safety.slot
                codes[row, -1, : safety.rank] = sequence.safety_strength or 0.0
        self.bank.row_codes.set(slots.to(self._device), codes, self._site_factors(sequences, spans))

    def code_factors(self, span: CodeSpan, safety_strength: float) -> Tensor | None:
        """Return the factors ``[S]`` that keep a composition's code in the trust region.

        Args:
            span: Positions that share the code.
            safety_strength: Factor of the safety adapter's code.

        Returns:
            Factors of the code at each site; None if all of them are 1.
        """
        if span.composed is None or self.composer is None:
            return None
        codes = [code for _, code in span.parts]
        factors = self.composer.site_factors(span.composed, codes, safety_strength)
        if not bool((factors < 1).any()):
            return None
        self._counters.scaled_codes += 1
        return factors

    def _site_factors(self, sequences: Items[Sequence], spans: Items[CodeSpan]) -> Tensor | None:
        """Return the factors ``[S, R]`` of the rows' codes; None if they are 1 everywhere."""
        found = [self._row_factors(*pair) for pair in zip(sequences, spans, strict=True)]
        scaled = [one for one in found if one is not None]
        if not scaled:
            return None
        ones = torch.ones_like(scaled[0])
        columns = [ones if one is None else one for one in found]
        return torch.stack(columns, dim=1).float().to(self._device)

    def _row_factors(self, sequence: Sequence, span: CodeSpan) -> Tensor | None:
        """Return one row's factors ``[S]``, computed once for each code; None if they are 1."""
        if span.composed is None:
            return None
        if sequence.composed_factors is None or sequence.composed_factors[0] is not span:
            found = self.code_factors(span, sequence.safety_strength or 0.0)
            sequence.composed_factors = span, found
        return sequence.composed_factors[1]

    def _check_counts(self, segments: Items[Segment]) -> None:
        names = {one.name for segment in segments for one in segment.active}
        if self.bank and len(names) > self.bank.pageable_slots:
            raise InvalidRequestError(
                "adapters",
                f"{len(names)} adapters in one request; "
                f"{self.bank.pageable_slots} can be resident at once; name fewer",
            )
        limit = self._settings.max_adapters
        most = max(len(segment.active) for segment in segments)
        if most > limit:
            raise InvalidRequestError(
                "adapters", f"{most} adapters are composed; at most {limit} are allowed; name fewer"
            )

    def _check_composable(self, active: Items[ScaledAdapter]) -> None:
        for one in active:
            if self.bank and not self.bank.find(one.name).composable:
                raise InvalidRequestError(
                    "adapters",
                    f"{one.name!r} adapts other layers than o_proj and down_proj from layer "
                    f"{self.bank.first_layer} on, and runs alone; name no other adapter",
                )

    def acquire_segment(self, segment: Segment) -> AcquiredSegment:
        """Lease the current versions of one segment's adapters; errors as in ``acquire``."""
        self._check_counts((segment,))
        active = segment.active
        if self.bank is None or self.composer is None:
            if names := _names(segment):
                raise AdapterNotFoundError(names[0], [])
            return AcquiredSegment(segment, None)
        # An adapter at scale 0 must exist, and takes no slot.
        found = [self.bank.find(one) for one in _names(segment)]
        if len(active) > 1:
            self._check_composable(active)
            composed = self.composer.acquire([one.name for one in active])
            self._counters.composed += 1
            return AcquiredSegment(segment, composed.members[0], composed.version, composed)
        if active:
            loaded = self.bank.acquire(active[0].name)
            return AcquiredSegment(segment, loaded, loaded.version)
        return AcquiredSegment(segment, None, found[0].version if found else "")


def _names(segment: Segment) -> list[str]:
    first = [] if segment.adapter is None else [segment.adapter]
    return [*first, *(one.name for one in segment.further)]


def _invocation(name: str, tokens: Items[int], prompt: Items[int]) -> int:
    """Return where the invocation tokens of an adapter occur last in a prompt."""
    ids, wanted = list(prompt), list(tokens)
    for start in range(len(ids) - len(wanted), -1, -1):
        if ids[start : start + len(wanted)] == wanted:
            return start
    raise InvalidRequestError(
        "adapter",
        f"{name!r} is activated by the tokens {wanted}, which the prompt does not contain; add "
        "the text that they stand for, or ask the base model",
    )
