"""Continuous batching: one thread owns the model; requests join and leave between steps."""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

import torch

from bem.adapters.bank import AdapterBank, LoadedAdapter
from bem.backbone import Backbone
from bem.engine.batch import Batch, Counters
from bem.engine.forward import one_token
from bem.engine.pages import give_back
from bem.engine.requests import GenerationRequest, OnPiece, Ticket
from bem.engine.scoring import ScoreRequest, score_batch
from bem.engine.threads import leave_pool
from bem.errors import (
    AdapterNotFoundError,
    BemError,
    DeadlineExceededError,
    EngineClosedError,
    QueueFullError,
)
from bem.safety import SafetyOverlay

PREFIX_BYTES = 128 * 2**20
# Without a request for so long, what earlier ones used goes back to the system.
IDLE_S = 1.0
T = TypeVar("T")


class ModelWorker:
    """Serves many requests with one model.

    Between two decode steps it takes in new requests, computes at most one piece of one prompt,
    and drops what was cancelled or is late. Rows never influence each other.

    Args:
        backbone: The model; nobody else may use it while the worker runs.
        bank: Its adapters, or None.
        rows: Requests that run at once.
        queue: Requests that may wait.
        context_tokens: Prompt and answer together have at most this many.
        prefix_bytes: Memory of the prefix cache; 0 has none.
        composition: Names how adapters are composed; part of every cached block's key.
        safety: The safety adapter in the bank, which requests turn up by their strength, or None.
        graphs: Whether decode steps keep to few shapes, which CUDA replays as graphs; None: on
            CUDA only. Not for weights that compiled CPU kernels multiply.
    """

    def __init__(
        self,
        backbone: Backbone,
        bank: AdapterBank | None = None,
        *,
        rows: int = 16,
        queue: int = 64,
        context_tokens: int = 2048,
        prefix_bytes: int = PREFIX_BYTES,
        composition: str = "",
        safety: SafetyOverlay | None = None,
        graphs: bool | None = None,
    ) -> None:
        self.backbone = backbone
        self.safety = safety
        self.context_tokens = min(context_tokens, backbone.context_tokens)
        self.counters = Counters()
        self.batch = Batch(
            backbone,
            bank,
            rows=rows,
            context_tokens=self.context_tokens,
            prefix_bytes=prefix_bytes,
            composition=composition,
            safety=safety,
            graphs=backbone.model.device.type == "cuda" if graphs is None else graphs,
            counters=self.counters,
        )
        self._bank = bank
        self._queue = queue
        self._waiting: deque[Ticket] = deque()
        self._commands: deque[tuple[Callable[[], None], Future[Any]]] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._abandon = False
        self._thread = threading.Thread(target=self._run, name="bem-engine", daemon=True)
        self.ended: Future[None] = Future()

    def start(self) -> None:
        """Prove the model with a forward of one token, then serve."""
        one_token(self.batch.decoder, min(self.backbone.end_token_ids), self.backbone.model.device)
        leave_pool()
        self._thread.start()

    def submit(self, request: GenerationRequest, on_piece: OnPiece) -> Ticket:
        """Accept a request; pieces arrive through ``on_piece`` on the engine's thread.

        Raises:
            QueueFullError: As many wait as may.
            EngineClosedError: The engine is closing.
        """
        ticket = Ticket(request, on_piece)
        with self._changed:
            if self._closing:
                raise EngineClosedError("the engine is closing and takes no more requests")
            if len(self._waiting) >= self._queue:
                self._sweep()
            if len(self._waiting) >= self._queue:
                raise QueueFullError(len(self._waiting), self._retry_after())
            self._waiting.append(ticket)
            self.counters.waiting = len(self._waiting)
            self._changed.notify()
        return ticket

    def load_adapter(self, folder: Path) -> Future[LoadedAdapter]:
        """Load an adapter between two steps."""
        return self._between_steps(lambda: self._adapters().load(folder))

    def unload_adapter(self, name: str) -> Future[None]:
        """Unload an adapter between two steps."""
        return self._between_steps(lambda: self._adapters().unload(name))

    def score(self, requests: Sequence[ScoreRequest]) -> Future[list[list[float]]]:
        """Return the log-probabilities of the targets of one batch, computed between two steps.

        Args:
            requests: All of one adapter; many texts are cut into batches by ``bem.engine.score``.
        """
        return self._between_steps(lambda: score_batch(self.batch, requests))

    def adapter(self, name: str) -> LoadedAdapter | None:
        """Return one loaded adapter, None if there is none of this name."""
        return self._bank.get(name) if self._bank else None

    def adapters(self) -> list[LoadedAdapter]:
        """Return the loaded adapters by name."""
        return self._bank.adapters() if self._bank else []

    def close(self, *, drain: bool) -> None:
        """End the thread: after all accepted requests when ``drain``, else at the next step."""
        with self._changed:
            self._closing = True
            self._abandon = not drain
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join()

    def _adapters(self) -> AdapterBank:
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
            except BaseException as err:
                done.set_exception(err)
                raise

        with self._changed:
            if self._closing:
                raise EngineClosedError("the engine is closing and takes no more work")
            self._commands.append((run, done))
            self._changed.notify()
        return done

    def _run(self) -> None:
        try:
            while self._wait_for_work():
                self.turn()
            self.ended.set_result(None)
        except Exception as err:  # noqa: BLE001 - whatever it is, every client must be told
            self.ended.set_exception(err)
        with self._changed:
            self._closing = True
            commands = list(self._commands)
            self._commands.clear()
            left = [row.ticket for row in self.batch.rows] + list(self._waiting)
            self.batch.rows.clear()
            self._waiting.clear()
        for ticket in left:
            ticket.on_piece(EngineClosedError("the engine ended before the request did"))
        for _, done in commands:
            done.set_exception(EngineClosedError("the engine ended before its turn came"))

    def _wait_for_work(self) -> bool:
        """Sleep until there is something to do; False ends the thread."""
        with self._changed:
            idle = not self._changed.wait_for(self._is_due, IDLE_S)
        if idle:
            give_back()
        with self._changed:
            self._changed.wait_for(self._is_due)
            if self._abandon:
                return False
            return bool(self.batch.rows or self._waiting or self._commands) or not self._closing

    def _is_due(self) -> bool:
        return bool(self.batch.rows or self._waiting or self._commands or self._closing)

    @torch.inference_mode()
    def turn(self) -> None:
        """Do what lies between two steps, one piece of one prompt, and one decode step.

        The engine's thread calls it; who never started the engine may call it instead.
        """
        if self._commands:  # one a turn: a batch of texts to score takes as long as many steps
            self._commands.popleft()[0]()
        self._drop_late()
        self._admit()
        self.batch.step()
        self.counters.running = len(self.batch.rows)
        self.counters.page_ins = self._bank.page_ins if self._bank else 0

    def _drop_late(self) -> None:
        now = time.monotonic()
        with self._changed:
            for row in list(self.batch.rows):
                if self._is_over(row.ticket, now):
                    self.batch.leave(row)
            kept = [ticket for ticket in self._waiting if not self._is_over(ticket, now)]
            self._waiting = deque(kept)
            self.counters.waiting = len(kept)

    def _sweep(self) -> None:
        """Take back the places of cancelled requests; the first one may be joining right now."""
        kept = [one for place, one in enumerate(self._waiting) if place == 0 or not one.cancelled]
        self.counters.dropped += len(self._waiting) - len(kept)
        self._waiting = deque(kept)

    def _is_over(self, ticket: Ticket, now: float) -> bool:
        deadline = ticket.request.deadline
        if not ticket.cancelled and (deadline is None or now < deadline):
            return False
        self.counters.dropped += 1
        if not ticket.cancelled:
            ticket.on_piece(DeadlineExceededError("the deadline passed before the last token"))
        return True

    def _admit(self) -> None:
        """Give waiting requests rows in their order; one whose adapter has no slot yet is waited for.

        Nobody overtakes it: otherwise requests for resident adapters could keep it out for ever.
        """
        while self.batch.free and self._waiting:
            ticket = self._waiting[0]
            try:
                joined = self.batch.join(ticket)
            except BemError as err:
                ticket.on_piece(err)
                joined = True
            if not joined:
                return
            with self._changed:
                self._waiting.popleft()
                self.counters.waiting = len(self._waiting)

    def _retry_after(self) -> float:
        """Estimate when a row is free for one more: the queue's length in recent request times."""
        turns = (len(self._waiting) + 1) / max(1, len(self.batch.rows) + self.batch.free)
        return min(60.0, max(0.5, turns * self.batch.seconds_each))
