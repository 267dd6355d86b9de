"""Decode steps: one token of every row, computed eagerly or replayed as CUDA graphs."""

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from bem.adapters.bank import AdapterBank
from bem.adapters.row_codes import RowCodes
from bem.backbone import Backbone
from bem.engine.decoder import Decoder
from bem.engine.kv_cache import AttentionPlan, KVCache
from bem.engine.shard_leader import check_whole

MIN_GRAPH_POSITIONS = 256


def replays_graphs(backbone: Backbone, wanted: bool | None) -> bool:
    """Return whether decode steps keep to few shapes.

    Args:
        backbone: The model.
        wanted: What is asked for; None enables them on CUDA if one process holds the model.

    Raises:
        InvalidSettingError: They are wanted, and several processes hold the model.
    """
    if wanted:
        check_whole(backbone, "CUDA graphs are")
    on_cuda = backbone.model.device.type == "cuda" and backbone.shards is None
    return on_cuda if wanted is None else wanted


class DecodeSteps(Protocol):
    """A decode step in two halves; codes are set between them."""

    def lower(
        self, slots: list[int], positions: list[int], tokens: list[int], evicted: list[int]
    ) -> tuple[Tensor, Tensor]:
        """Run ``tokens [R]`` through the lower half.

        Args:
            slots: Slot of each row.
            positions: Place in the slot at which each token is stored.
            tokens: Token of each row.
            evicted: Positions evicted from each slot.

        Returns:
            The state before the first site and the state that controllers read, ``[R, 1, F]`` each.
        """
        ...

    def upper(self) -> Tensor:
        """Run the upper half of the step; return the float32 logits ``[R, V]``."""
        ...


class EagerDecodeSteps:
    """Decode steps of any shape, launched operation by operation.

    Args:
        decoder: Forward pass in two halves.
        device: Device of the model.
    """

    def __init__(self, decoder: Decoder, device: torch.device) -> None:
        self._decoder, self._device = decoder, device
        self._pending: Any = None

    def lower(
        self, slots: list[int], positions: list[int], tokens: list[int], evicted: list[int]
    ) -> tuple[Tensor, Tensor]:
        """Run ``tokens [R]`` through the lower half; arguments as in ``DecodeSteps``.

        Returns:
            The state before the first site and the state that controllers read, ``[R, 1, F]`` each.
        """
        ids = torch.tensor(tokens, device=self._device)[:, None]
        plan = self._decoder.plan(slots, positions, 1, evicted if any(evicted) else None)
        hidden, features = self._decoder.lower(ids, plan)
        self._pending = hidden, plan
        return hidden, features

    def upper(self) -> Tensor:
        """Run the upper half of the step; return the float32 logits ``[R, V]``."""
        return self._decoder.logits(self._decoder.upper(*self._pending))


class GraphDecodeSteps:
    """Decode steps of few shapes, each captured once and then replayed with one launch.

    A step of a small model launches hundreds of kernels that take less time than their launch. A
    CUDA graph replays them at once, but only with the same shapes and addresses. Therefore a step
    computes slots 0 to S - 1 whether or not a sequence decodes in them, over L positions, with U
    joined adapters. All three are rounded up, and the inputs of a step stay in fixed buffers. A
    step with a composition multiplies codes by a factor at each site, and one with a LoRA of other
    layers computes their sites too; both are shapes of their own. A
    slot without a token writes to one more position than sequences can use, which attention never
    reads. Without CUDA the same functions are called instead of replayed: nothing in them depends
    on data.

    Example: sequences in slots 0, 1 and 3 at positions 300, 12 and 40 with two adapters run the
    graph of S = 4 slots, L = 512 positions and U = 2 adapters.

    Args:
        decoder: Forward pass by torch operations; compiled CPU kernels are not supported.
        bank: Adapters in its sites, or None.
        kv_cache: KV cache with ``context_tokens + 1`` positions.
        context_tokens: Positions that a sequence can use.
    """

    def __init__(
        self, decoder: Decoder, bank: AdapterBank | None, kv_cache: KVCache, context_tokens: int
    ) -> None:
        self._decoder, self._bank, self._kv_cache = decoder, bank, kv_cache
        self._max_slots, self._context_tokens = kv_cache.keys.shape[1], context_tokens
        device = kv_cache.keys.device
        self._device = device
        self._ids = torch.zeros(self._max_slots, 1, dtype=torch.int64, device=device)
        self._positions = torch.full_like(self._ids, context_tokens)
        self._angles = self._positions.clone()
        ranks = bank.preallocate_concatenated(kv_cache.keys.dtype) * bank.rank if bank else 0
        self._codes = torch.zeros(self._max_slots, 1, ranks, device=device)
        self._lower_codes = torch.zeros_like(self._codes)
        sites = len(bank.factors.sites) if bank else 0
        self._site_factors = torch.ones(sites, self._max_slots, device=device)
        self._graphs: dict[tuple[int, ...], tuple[Any, Any]] = {}
        self._pool: Any = None
        self._shape = (0, 0)
        self._hidden: Tensor | None = None
        self._slots = self._ids[:, 0]

    @property
    def graph_count(self) -> int:
        """Number of graphs: shapes of halves that have occurred."""
        return len(self._graphs)

    def lower(
        self, slots: list[int], positions: list[int], tokens: list[int], evicted: list[int]
    ) -> tuple[Tensor, Tensor]:
        """Run ``tokens [R]`` through the lower half; arguments as in ``DecodeSteps``.

        Returns:
            The state before the first site and the state that controllers read, ``[R, 1, F]`` each.
        """
        # One transfer to the device instead of three.
        inputs = torch.tensor([slots, tokens, positions, evicted], device=self._device)
        self._slots = inputs[0]
        self._positions.fill_(self._context_tokens)
        self._angles.fill_(self._context_tokens)
        self._ids[self._slots, 0] = inputs[1]
        self._positions[self._slots, 0] = inputs[2]
        self._angles[self._slots, 0] = inputs[2] + inputs[3]
        key_positions = _round_up_doubling(MIN_GRAPH_POSITIONS, max(positions) + 1)
        self._shape = (
            min(_round_up_doubling(1, max(slots) + 1), self._max_slots),
            min(key_positions, self._context_tokens),
        )
        adapters = (
            self._join_adapters(self._bank.lower_codes, self._lower_codes) if self._bank else 0
        )
        self._hidden, features = self._run((*self._shape, adapters), self._lower)
        return self._hidden[self._slots], features[self._slots]

    def upper(self) -> Tensor:
        """Run the upper half of the step; return the float32 logits ``[R, V]``."""
        adapters = self._join_adapters(self._bank.row_codes, self._codes) if self._bank else 0
        shape = (*self._shape, adapters, int(self._has_site_factors()), int(self._adapts_linear()))
        logits: Tensor = self._run(shape, self._upper)
        return logits[self._slots]

    def _lower(self, slots: int, key_positions: int, adapters: int) -> tuple[Tensor, Tensor]:
        plan = self._plan(slots, key_positions)
        if self._bank is None or not adapters:
            return self._decoder.lower(self._ids[:slots], plan)
        codes = self._lower_codes[:slots, :, : adapters * self._bank.rank]
        with self._bank.lower_codes.use_preset(codes, linear=True):
            return self._decoder.lower(self._ids[:slots], plan)

    def _plan(self, slots: int, key_positions: int) -> AttentionPlan:
        return self._kv_cache.plan_decode_step(
            self._positions[:slots], self._angles[:slots], key_positions
        )

    def _upper(
        self, slots: int, key_positions: int, adapters: int, factored: int, linear: int
    ) -> Tensor:
        plan = self._plan(slots, key_positions)
        if self._hidden is None:
            raise RuntimeError("upper: no lower half was computed; call lower() first")
        if self._bank is None or not adapters:
            return self._decoder.logits(self._decoder.upper(self._hidden, plan))
        codes = self._codes[:slots, :, : adapters * self._bank.rank]
        factors = self._site_factors[:, :slots] if factored else None
        with self._bank.row_codes.use_preset(codes, factors, linear=bool(linear)):
            return self._decoder.logits(self._decoder.upper(self._hidden, plan))

    def _join_adapters(self, row_codes: RowCodes, codes: Tensor) -> int:
        """Copy factors and codes of the adapters in use; return their number, rounded up.

        Args:
            row_codes: Codes of the half that is computed next.
            codes: Fixed buffer that takes them.
        """
        if self._bank is None or row_codes.slots is None:
            return 0
        used, chosen = row_codes.concatenated()
        for stacks in (self._bank.factors, self._bank.linear):
            stacks.concatenate(used, row_codes)
        codes.zero_()
        codes[self._slots, :, : chosen.shape[2]] = chosen
        if (factors := row_codes.site_factors) is not None:
            self._site_factors.fill_(1)
            self._site_factors[:, self._slots] = factors
        return min(_round_up_doubling(1, len(used)), codes.shape[2] // self._bank.rank)

    def _adapts_linear(self) -> bool:
        return self._bank is not None and self._bank.linear.is_used(self._bank.row_codes)

    def _has_site_factors(self) -> bool:
        return self._bank is not None and self._bank.row_codes.site_factors is not None

    def _run(self, shape: tuple[int, ...], half: Callable[..., Any]) -> Any:
        if self._device.type != "cuda":
            self._graphs[shape] = (None, None)
            return half(*shape)
        if shape not in self._graphs:
            self._graphs[shape] = self._capture(lambda: half(*shape))
        graph, out = self._graphs[shape]
        graph.replay()
        return out

    def _capture(self, call: Callable[[], Any]) -> tuple[Any, Any]:
        # On the first call, libraries choose kernels and allocate workspace; neither can be
        # captured, so the call runs once on a side stream before it is captured.
        side_stream = torch.cuda.Stream(self._device)
        side_stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(side_stream):
            call()
        torch.cuda.current_stream(self._device).wait_stream(side_stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            out = call()
        self._pool = graph.pool()
        return graph, out


def _round_up_doubling(start: int, minimum: int) -> int:
    """Return ``start`` doubled until it is at least ``minimum``."""
    while start < minimum:
        start *= 2
    return start
