"""LLM engine: one thread owns the model and serves a queue of requests by continuous batching.

An unexpected error ends the requests of the step that raised it, not the engine: the engine then
verifies the model with a forward pass that no adapter takes part in, and ends only if that fails.
"""

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from bem.adapters.bank import AdapterBank
from bem.adapters.loaded import LoadedAdapter
from bem.backbone import Backbone
from bem.composition import CompositionSettings
from bem.engine.api import GenerationRequest, OutputCallback, RequestHandle
from bem.engine.cache_compression import CacheSetting
from bem.engine.context_limit import context_limit
from bem.engine.counters import EngineCounters
from bem.engine.decode_steps import replays_graphs
from bem.engine.decoder import probe_one_token
from bem.engine.engine_core import EngineCore, report_failure
from bem.engine.engine_load import EngineLoad, adapters_of
from bem.engine.grammar import OutputForm
from bem.engine.kv_cache import position_bytes
from bem.engine.openmp import release_openmp_threads
from bem.engine.process_memory import trim_heap
from bem.engine.queue_limits import QueueLimits, without_cancelled
from bem.engine.scoring import ScoreRequest
from bem.engine.shard_leader import check_whole
from bem.errors import (
    AdapterNotFoundError,
    BemError,
    DeadlineExceededError,
    EngineClosedError,
)
from bem.safety import SafetyOverlay

_LOG = logging.getLogger(__name__)

PREFIX_BYTES = 128 * 2**20
# After this long without a request, freed heap memory is returned to the system.
IDLE_S = 1.0
T = TypeVar("T")


class LLMEngine:
    """Serves many requests with one model.

    Between two decode steps the engine admits waiting requests, computes prefill chunks within the
    scheduler's budget, and drops requests that are cancelled or past their deadline.

    Args:
        backbone: The model; nothing else may use it while the engine runs.
        bank: Adapters of the model, or None.
        max_sequences: Requests that run at once.
        max_waiting: Requests that may wait in the queue.
        max_wait_s: Longest expected wait in the queue, in seconds.
        guests: Further requests that run, and that wait, of clients that have none yet; 0 lets one
            client occupy all slots.
        context_tokens: Limit of prompt and output together; None for the model's own.
        kv_bytes: Memory of keys and values of running requests, beside 256 positions of each idle
            slot; None for no bound. Further requests wait, and a request that grows may pause.
        prefix_bytes: Memory of the prefix cache; 0 disables it.
        composition: How the adapters of one request are composed; part of every block key.
        safety: Safety adapter in the bank, which requests enable by their strength, or None.
        cache: Cache policy that compresses complete prompts; None keeps all entries.
        graphs: Whether decode steps keep to few shapes, which CUDA replays as graphs. None enables
            them on CUDA only; compiled CPU kernels do not support them.

    Raises:
        InvalidSettingError: A cache policy is set and the model attends to fewer tokens than the
            context has; or several processes hold the model and a feature needs all of it.

    Attributes:
        ended: Completes when the thread ends, with the exception that broke it if there was one.
    """

    def __init__(
        self,
        backbone: Backbone,
        bank: AdapterBank | None = None,
        *,
        max_sequences: int = 16,
        max_waiting: int = 64,
        max_wait_s: float = math.inf,
        guests: int = 0,
        context_tokens: int | None = None,
        kv_bytes: int | None = None,
        prefix_bytes: int = PREFIX_BYTES,
        composition: CompositionSettings | None = None,
        safety: SafetyOverlay | None = None,
        cache: CacheSetting | None = None,
        graphs: bool | None = None,
    ) -> None:
        self.backbone, self.safety, self.counters = backbone, safety, EngineCounters()
        kv_tokens = None if kv_bytes is None else kv_bytes // position_bytes(backbone)
        self.context_tokens = context_limit(backbone, context_tokens, kv_tokens)
        self.core = EngineCore(
            backbone,
            bank,
            max_sequences=max_sequences,
            guests=guests,
            context_tokens=self.context_tokens,
            kv_tokens=kv_tokens,
            prefix_bytes=prefix_bytes,
            composition=composition or CompositionSettings(),
            safety=safety,
            cache=cache,
            graphs=replays_graphs(backbone, graphs),
            counters=self.counters,
        )
        self._bank, self._limits = bank, QueueLimits(self.core, max_waiting, max_wait_s)
        self._waiting: deque[RequestHandle] = deque()
        self._commands: deque[tuple[Callable[[], None], Future[Any]]] = deque()
        self._closing, self._abandon, self._changed = False, False, threading.Condition()
        self._thread = threading.Thread(target=self._run, name="bem-engine", daemon=True)
        self.ended: Future[None] = Future()

    @property
    def prefix_cache_bytes(self) -> int:
        """Memory that the blocks of the prefix cache use now."""
        return self.core.prefix_cache.bytes

    @property
    def kv_tokens(self) -> int:
        """Positions of the KV cache that running requests hold now."""
        return self.core.kv_budget.granted

    @property
    def load(self) -> EngineLoad:
        """What running and waiting requests use now."""
        with self._changed:
            waiting = [one.request for one in self._waiting]
        running = [one.handle.request for one in tuple(self.core.scheduler.running)]
        return EngineLoad(
            self.kv_tokens / self.core.kv_capacity_tokens,
            self._bank.pageable_slots if self._bank else 0,
            adapters_of(running),
            adapters_of(waiting),
        )

    def start(self) -> None:
        """Verify the model with a forward pass of one token, then start the thread."""
        self._verify_model()
        release_openmp_threads()
        self._thread.start()

    def submit(self, request: GenerationRequest, on_output: OutputCallback) -> RequestHandle:
        """Enqueue a request; ``on_output`` receives its deltas on the engine's thread.

        Raises:
            EngineClosedError: The engine is closing.
            QueueFullError: The request may not wait; for one that yields, there is no free slot.
        """
        handle = RequestHandle(request, on_output)
        with self._changed:
            if self._closing:
                raise EngineClosedError("the engine is closing and accepts no more requests")
            if len(self._waiting) >= self._limits.places:
                kept = without_cancelled(self._waiting)
                self.counters.dropped += len(self._waiting) - len(kept)
                self._waiting = kept
            self._limits.check(request, self._waiting)
            self._waiting.append(handle)
            self.counters.waiting = len(self._waiting)
            self._changed.notify()
        return handle

    def prepare(self, form: OutputForm) -> None:
        """Compile the form of an output on the caller's thread, so that no step waits for it.

        Raises:
            InvalidRequestError: The form is not served.
        """
        self.core.outputs.grammars.compile(form)

    def load_adapter(self, folder: Path, *, name: str | None = None) -> Future[LoadedAdapter]:
        """Load an adapter between two steps; arguments as in ``AdapterBank.load``."""
        return self._between_steps(lambda: self._require_bank().load(folder, name=name))

    def unload_adapter(self, name: str) -> Future[None]:
        """Unload an adapter between two steps."""
        return self._between_steps(lambda: self._require_bank().unload(name))

    def set_cache(self, cache: CacheSetting | None) -> Future[None]:
        """Change the cache policy between two steps; None keeps all entries."""
        return self._between_steps(lambda: self.core.set_cache(cache))

    def score(self, requests: Sequence[ScoreRequest]) -> Future[list[list[float]]]:
        """Return the log-probabilities of the targets of one batch, computed between two steps.

        Args:
            requests: Requests of one adapter; ``bem.engine.score`` cuts many texts into batches.
        """
        return self._between_steps(lambda: self.core.scorer.score(requests))

    def embed(self, texts: Sequence[Sequence[int]]) -> Future[Tensor]:
        """Return the pooled states ``[N, F]`` of one batch of texts, computed between two steps.

        Args:
            texts: Token ids of each text; ``bem.engine.embedding`` says how they are pooled.
        """
        return self._between_steps(lambda: self.core.embedder.pooled(texts))

    def adapter(self, name: str) -> LoadedAdapter | None:
        """Return the current version of an adapter; None if it is not loaded."""
        return self._bank.get(name) if self._bank else None

    def adapters(self) -> list[LoadedAdapter]:
        """Return the loaded adapters, sorted by name."""
        return self._bank.adapters() if self._bank else []

    def close(self, *, drain: bool) -> None:
        """End the thread: after all accepted requests if ``drain``, else before the next step."""
        with self._changed:
            self._closing = True
            self._abandon = not drain
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join()
        if self.backbone.shards:
            self.backbone.shards.stop()

    def _verify_model(self) -> None:
        """Run a forward pass without adapters; it raises if the model cannot compute."""
        token = min(self.backbone.end_token_ids, default=0)
        probe_one_token(self.core.decoder, token, self.backbone.model.device)

    def _survive(self, event: str, err: Exception) -> None:
        """Log an unexpected error and verify that the model still computes.

        Raises:
            Exception: The model is broken; a process that serves it must end.
        """
        _LOG.error(event, exc_info=err)
        self.core.binding.clear()
        self._verify_model()

    def _require_bank(self) -> AdapterBank:
        check_whole(self.backbone, "adapters are")
        if self._bank is None:
            raise AdapterNotFoundError("any", [])
        return self._bank

    def _between_steps(self, command: Callable[[], T]) -> "Future[T]":
        done: Future[T] = Future()

        def run() -> None:
            try:
                done.set_result(command())
            except BemError as err:
                done.set_exception(err)
            except Exception as err:  # noqa: BLE001 - the caller gets it; the engine goes on
                done.set_exception(err)
                self._survive("a command failed", err)

        with self._changed:
            if self._closing:
                raise EngineClosedError("the engine is closing and accepts no more work")
            self._commands.append((run, done))
            self._changed.notify()
        return done

    def _run(self) -> None:
        try:
            while self._wait_for_work():
                self.turn()
            self.ended.set_result(None)
        except Exception as err:  # noqa: BLE001 - every waiting client must be told, whatever it is
            self.ended.set_exception(err)
        with self._changed:
            self._closing = True
            commands = list(self._commands)
            self._commands.clear()
            running = self.core.scheduler.running
            unfinished = [one.handle for one in running] + list(self._waiting)
            running.clear()
            self._waiting.clear()
        for handle in unfinished:
            handle.on_output(EngineClosedError("the engine ended before the request was complete"))
        for _, done in commands:
            done.set_exception(EngineClosedError("the engine ended before the command ran"))

    def _wait_for_work(self) -> bool:
        """Sleep until there is work; return False to end the thread."""
        with self._changed:
            idle = not self._changed.wait_for(self._has_work, IDLE_S)
        if idle:
            self.core.kv_cache.offer_retained()
            trim_heap()
        with self._changed:
            self._changed.wait_for(self._has_work)
            if self._abandon:
                return False
            running = self.core.scheduler.running
            return bool(running or self._waiting or self._commands) or not self._closing

    def _has_work(self) -> bool:
        running = self.core.scheduler.running
        return bool(running or self._waiting or self._commands or self._closing)

    @torch.inference_mode()
    def turn(self) -> None:
        """Run one command, admit requests, and compute one step.

        The engine's thread calls it. If the engine was not started, any one thread may call it.
        """
        if self._commands:  # one a turn: a batch of texts to score takes as long as many steps
            self._commands.popleft()[0]()
        self._drop_ended()
        self._admit()
        if yielding := self._limits.yielding(self._waiting):
            self.core.fail(yielding, self._limits.refusal(self._waiting))
        try:
            self.core.step()
        except Exception as err:  # noqa: BLE001 - one adapter or request must not end all others
            self._fail_running(err)
        self.counters.running = len(self.core.scheduler.running)
        self.counters.kv_bytes = self.core.stored_bytes
        self.counters.page_ins = self._bank.page_ins if self._bank else 0

    def _drop_ended(self) -> None:
        now = time.monotonic()
        with self._changed:
            for sequence in list(self.core.scheduler.running):
                if self._is_over(sequence.handle, now):
                    self.core.release(sequence)
            waiting = [handle for handle in self._waiting if not self._is_over(handle, now)]
            self._waiting = deque(waiting)
            self.counters.waiting = len(waiting)

    def _is_over(self, handle: RequestHandle, now: float) -> bool:
        deadline = handle.request.deadline
        if not handle.cancelled and (deadline is None or now < deadline):
            return False
        self.counters.dropped += 1
        if not handle.cancelled:
            report_failure(
                handle, DeadlineExceededError("the deadline passed before the last token")
            )
        return True

    def _fail_running(self, err: Exception) -> None:
        """End all requests of a failed step: the states of their sequences may be half written."""
        for sequence in list(self.core.scheduler.running):
            self.core.fail(sequence, err)
        self._survive("a step failed", err)

    def _admit(self) -> None:
        """Admit waiting requests in order; one whose adapter has no slot yet blocks the rest.

        If later requests overtook it, requests for resident adapters could starve it.
        """
        while handle := self._next_waiting():
            try:
                admitted = self.core.admit(handle)
            except BemError as err:
                handle.on_output(err)
                admitted = True
            except Exception as err:  # noqa: BLE001 - the engine goes on without this request
                report_failure(handle, err)
                self._survive("an admission failed", err)
                admitted = True
            if not admitted:
                return
            with self._changed:
                self._waiting.popleft()
                self.counters.waiting = len(self._waiting)

    def _next_waiting(self) -> RequestHandle | None:
        """Move the request that gets the next slot to the front of the queue, and return it."""
        scheduler = self.core.scheduler
        with self._changed:
            handle = scheduler.shares.next_waiting(
                self._waiting, scheduler.running, scheduler.free_slots
            )
            if handle is not None:
                self._waiting.remove(handle)
                self._waiting.appendleft(handle)
        return handle
