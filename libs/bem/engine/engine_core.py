"""Engine core: one step of continuous batching over scheduler, model runner and caches."""

import logging
import time

import torch
from torch import Tensor

from bem.adapters.bank import AdapterBank
from bem.backbone import Backbone
from bem.composition import CompositionSettings
from bem.engine.adapter_binding import AdapterBinding
from bem.engine.api import RequestHandle
from bem.engine.block_transfer import LOWER, UPPER, BlockTransfer
from bem.engine.cache_compression import CacheCompressor, CacheSetting
from bem.engine.client_shares import ClientShares
from bem.engine.counters import EngineCounters
from bem.engine.decode_steps import DecodeSteps, EagerDecodeSteps, GraphDecodeSteps
from bem.engine.decoder import Decoder
from bem.engine.embedding import Embedder
from bem.engine.kv_budget import KVBudget
from bem.engine.kv_cache import KVCache
from bem.engine.model_runner import ModelRunner
from bem.engine.output_processor import OutputProcessor
from bem.engine.prefill import PrefillBatch
from bem.engine.prefix_cache import BlockKeys, PrefixCache
from bem.engine.scheduler import Scheduler
from bem.engine.scoring import Scorer
from bem.engine.sequence import Sequence, allocate_lower_states
from bem.engine.shard_leader import check_whole, open_cache
from bem.errors import (
    BemError,
    InvalidRequestError,
    NonFiniteLogitsError,
    RequestFailedError,
    SlotsFullError,
)
from bem.safety import SafetyOverlay

_LOG = logging.getLogger(__name__)


class EngineCore:
    """Admits requests, steps them together and releases them; sequences never influence each other.

    Args:
        backbone: The model.
        bank: Adapters of the model, or None.
        max_sequences: Sequences that run at once.
        guests: Further ones, for clients that have none running.
        context_tokens: Limit of prompt and output together.
        kv_tokens: Positions that running sequences may hold together; None for no bound.
        prefix_bytes: Memory of the prefix cache; 0 disables it.
        composition: How the adapters of one request are composed; part of every block key.
        safety: Safety adapter in the bank, or None.
        cache: Cache policy that compresses complete prompts; None keeps all entries.
        graphs: Whether decode steps keep to few shapes, which CUDA replays as graphs.
        counters: Counters of the engine.

    Attributes:
        mean_request_s: Moving average of the time from admission to release, in seconds.
    """

    def __init__(
        self,
        backbone: Backbone,
        bank: AdapterBank | None,
        *,
        max_sequences: int,
        guests: int,
        context_tokens: int,
        kv_tokens: int | None,
        prefix_bytes: int,
        composition: CompositionSettings,
        safety: SafetyOverlay | None,
        cache: CacheSetting | None,
        graphs: bool,
        counters: EngineCounters,
    ) -> None:
        self._backbone, self.context_tokens, self.mean_request_s = backbone, context_tokens, 1.0
        embedding: Tensor = backbone.model.model.embed_tokens.weight
        slots, device = max_sequences + guests, embedding.device
        self.kv_cache = _kv_cache(backbone, slots, context_tokens, graphs=graphs)
        self.kv_budget, self.prefix_cache = KVBudget(kv_tokens), PrefixCache(prefix_bytes)
        self.decoder = Decoder(backbone, bank, self.kv_cache)
        self.binding = AdapterBinding(bank, safety, device, composition, counters)
        self.blocks = self._block_transfer(counters)
        self.scheduler = Scheduler(
            slots=slots,
            context_tokens=context_tokens,
            decode_chunk_tokens=self.decoder.decode_chunk_tokens,
            load_cached_blocks=self.blocks.load,
            caches_blocks=prefix_bytes > 0,
            budget=self.kv_budget,
            shares=ClientShares(guests),
        )
        steps = _decode_steps(self.decoder, bank, self.kv_cache, graphs=graphs)
        self.runner = ModelRunner(self.decoder, steps, self.binding, embedding, counters)
        self.scorer = Scorer(self.decoder, self.binding, context_tokens, device, safety)
        self.outputs = OutputProcessor(backbone, context_tokens, counters)
        self._embedding, self._counters = embedding, counters
        self._root = _root_key(backbone, composition)
        self.set_cache(cache)

    @property
    def embedder(self) -> Embedder:
        """Pools states of texts; it holds none itself."""
        return Embedder(self.decoder, self.context_tokens, self._embedding.device)

    def set_cache(self, cache: CacheSetting | None) -> None:
        """Use a cache policy for the prompts that become complete from now on; None for none."""
        self.compressor: CacheCompressor | None = None
        if cache is None:
            return
        check_whole(self._backbone, "cache policies are")
        self.compressor = CacheCompressor(
            cache,
            decoder=self.decoder,
            kv_cache=self.kv_cache,
            binding=self.binding,
            budget=self.kv_budget,
            counters=self._counters,
        )

    def _block_transfer(self, counters: EngineCounters) -> BlockTransfer:
        return BlockTransfer(
            self.prefix_cache, self.kv_cache, self.decoder.split, self.binding, counters
        )

    @property
    def kv_capacity_tokens(self) -> int:
        """Positions of the KV cache that running sequences can hold together."""
        all_slots = self.kv_cache.keys.shape[1] * self.context_tokens
        return min(self.kv_budget.tokens or all_slots, all_slots)

    @property
    def stored_bytes(self) -> int:
        """Bytes of the keys and values that running sequences store now."""
        positions = sum(one.stored_tokens for one in self.scheduler.running)
        return positions * self.kv_cache.position_bytes

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        return self._embedding.device

    def admit(self, handle: RequestHandle) -> bool:
        """Give a request a slot.

        Returns:
            False while other requests use all adapter slots or the memory of the KV cache.

        Raises:
            BemError: The prompt does not fit the context, the form of the output is not served, or
                an adapter is not loaded, cannot be read, or is one more than the bank has slots.
        """
        request = handle.request
        prompt_tokens = len(request.prompt_ids)
        if not 1 <= prompt_tokens <= self.context_tokens:
            raise InvalidRequestError(
                "prompt_ids", f"{prompt_tokens} tokens; 1 to {self.context_tokens} are allowed"
            )
        if request.form:  # before anything is taken; a server has compiled it by now
            self.outputs.grammars.compile(request.form)
        most_tokens = min(self.context_tokens, prompt_tokens + request.max_tokens)
        if not self.kv_budget.admit(handle, prompt_tokens, most_tokens):
            return False
        try:
            segments = self.binding.acquire(request)
        except BemError as err:
            self.kv_budget.release(handle)
            if isinstance(err, SlotsFullError):
                return False
            raise
        sequence = Sequence(
            handle,
            slot=self.scheduler.take_slot(),
            segments=segments,
            block_keys=BlockKeys(self._root, segments, request.prompt_ids),
            lower_states=allocate_lower_states(most_tokens, self._embedding),
            output=self.outputs.open(handle, segments),
        )
        self.scheduler.add(sequence)
        return True

    def release(self, sequence: Sequence) -> None:
        """End a sequence: free its slot and its adapter leases."""
        self.scheduler.remove(sequence)
        self.kv_budget.release(sequence.handle)
        self.kv_cache.release(sequence.slot, sequence.stored_tokens)
        self.binding.release(sequence.segments)
        elapsed = time.monotonic() - sequence.admitted_at
        self.mean_request_s += 0.2 * (elapsed - self.mean_request_s)

    def step(self) -> None:
        """Compute prefill chunks, then one token of every sequence whose prompt is complete."""
        for batch in self.scheduler.prefill_batches():
            self._prefill(batch)
        if sequences := self.scheduler.decode_batch():
            self._decode(sequences)

    def _prefill(self, batch: PrefillBatch) -> None:
        if not batch.upper:
            self.runner.prefill_lower(batch)
            for chunk in batch.chunks:
                self.blocks.store(chunk.sequence, LOWER)
            return
        complete = self.runner.prefill_upper(batch)
        for chunk in batch.chunks:
            self.blocks.store(chunk.sequence, UPPER)
        if not complete:
            return
        for sequence, _ in complete:
            self.blocks.touch(sequence)
            sequence.report_prompt()
        self._process([one for one, _ in complete], torch.stack([row for _, row in complete]))
        if self.compressor:
            for sequence, _ in complete:
                if sequence in self.scheduler.running:
                    self.compressor.compress(sequence)

    def _decode(self, sequences: list[Sequence]) -> None:
        began = time.monotonic()
        self._process(sequences, self.runner.decode(sequences))
        self.scheduler.shares.times.observe(len(sequences), time.monotonic() - began)

    def _process(self, sequences: list[Sequence], logits: Tensor) -> None:
        """Sample the next token of each sequence from ``logits [R, V]``; one failure is its own."""
        finite = logits.amax(1).isfinite().tolist()  # the largest is NaN if any is
        for row, sequence in enumerate(sequences):
            if not finite[row]:
                adapter = sequence.segments[-1].segment.adapter
                self.fail(sequence, NonFiniteLogitsError(adapter))
                continue
            try:
                if self.outputs.process(sequence, logits[row]):
                    self.blocks.store_output(sequence)
                    self.release(sequence)
            except Exception as err:  # noqa: BLE001 - the other rows have their tokens to come
                self.fail(sequence, err)

    def fail(self, sequence: Sequence, err: Exception) -> None:
        """End one sequence with an error; the others continue."""
        if sequence in self.scheduler.running:
            self.release(sequence)
        report_failure(sequence.handle, err)


def report_failure(handle: RequestHandle, err: Exception) -> None:
    """Give a request its error; one that is not the library's own is logged and hidden."""
    if not isinstance(err, BemError):
        _LOG.error("a request failed", exc_info=err)
        err = RequestFailedError("the request failed in the engine; see the server's log")
    try:
        handle.on_output(err)
    except Exception as broken:  # noqa: BLE001 - a broken receiver must not end the engine
        _LOG.error("a receiver of output failed", exc_info=broken)


def _root_key(backbone: Backbone, composition: CompositionSettings) -> str:
    """Return the part of every block key that all requests share."""
    dtype = backbone.model.model.embed_tokens.weight.dtype
    return f"{backbone.digest}|{dtype}|{backbone.weight_format}|{composition.identity}"


def _kv_cache(backbone: Backbone, slots: int, context_tokens: int, *, graphs: bool) -> KVCache:
    # Steps of fixed shape write the tokens of idle slots to one position that nobody reads.
    return open_cache(backbone, slots=slots, context_tokens=context_tokens + graphs)


def _decode_steps(
    decoder: Decoder, bank: AdapterBank | None, kv_cache: KVCache, *, graphs: bool
) -> DecodeSteps:
    if graphs:
        return GraphDecodeSteps(decoder, bank, kv_cache, kv_cache.keys.shape[3] - 1)
    return EagerDecodeSteps(decoder, kv_cache.keys.device)
