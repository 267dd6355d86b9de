"""Continuous batching: one thread owns the model; requests join and leave between steps."""

import heapq
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch

from bem.adapters.bank import LoadedSkill, SkillBank
from bem.backbone import Backbone
from bem.engine.forward import Decoder, one_token
from bem.engine.kv import SlotCache
from bem.engine.requests import Finish, GenerationRequest, OnPiece, Piece, Ticket
from bem.engine.row import Row
from bem.errors import (
    BemError,
    DeadlineExceededError,
    EngineClosedError,
    QueueFullError,
    SkillNotFoundError,
)
from bem.safety import SafetyOverlay

PREFILL_TOKENS = 256
T = TypeVar("T")


@dataclass
class Counters:
    """What the engine has done; read by anyone, written by its thread.

    Attributes:
        running: Requests in rows now.
        waiting: Requests in the queue now.
        steps: Decode steps.
        prompt_tokens: Tokens of prompts computed.
        generated_tokens: Tokens generated.
        dropped: Requests cancelled or past their deadline.
    """

    running: int = 0
    waiting: int = 0
    steps: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    dropped: int = 0


class ModelWorker:
    """Serves many requests with one model.

    Between two decode steps it takes in new requests, computes at most one piece of one prompt,
    and drops what was cancelled or is late. Rows never influence each other.

    Args:
        backbone: The model; nobody else may use it while the worker runs.
        bank: Its skills, or None.
        rows: Requests that run at once.
        queue: Requests that may wait.
        context_tokens: Prompt and answer together have at most this many.
        safety: The safety adapter in the bank, which requests turn up by their knob, or None.
    """

    def __init__(
        self,
        backbone: Backbone,
        bank: SkillBank | None = None,
        *,
        rows: int = 16,
        queue: int = 64,
        context_tokens: int = 2048,
        safety: SafetyOverlay | None = None,
    ) -> None:
        self.backbone = backbone
        self.context_tokens = min(context_tokens, backbone.context_tokens)
        self.counters = Counters()
        self._bank = bank
        self.safety = safety
        self._queue = queue
        cache = SlotCache(backbone, rows=rows, context_tokens=self.context_tokens)
        self._decoder = Decoder(backbone, bank, cache)
        self._device = backbone.model.device
        self._free = list(range(rows))  # a heap: attention is cheapest over the lowest slots
        self._rows: list[Row] = []
        self._waiting: deque[Ticket] = deque()
        self._commands: deque[Callable[[], None]] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._abandon = False
        self._seconds_each = 1.0
        self._thread = threading.Thread(target=self._run, name="bem-engine", daemon=True)
        self.ended: Future[None] = Future()

    def start(self) -> None:
        """Prove the model with a forward of one token, then serve."""
        one_token(self._decoder, min(self.backbone.end_token_ids), self._device)
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
                raise QueueFullError(len(self._waiting), self._retry_after())
            self._waiting.append(ticket)
            self.counters.waiting = len(self._waiting)
            self._changed.notify()
        return ticket

    def load_skill(self, folder: Path) -> Future[LoadedSkill]:
        """Load a skill between two steps."""
        return self._between_steps(lambda bank: bank.load(folder))

    def unload_skill(self, name: str) -> Future[None]:
        """Unload a skill between two steps."""
        return self._between_steps(lambda bank: bank.unload(name))

    def skills(self) -> list[LoadedSkill]:
        """Return the loaded skills by name."""
        return self._bank.skills() if self._bank else []

    def close(self, *, drain: bool) -> None:
        """End the thread: after all accepted requests when ``drain``, else at the next step."""
        with self._changed:
            self._closing = True
            self._abandon = not drain
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join()

    def _between_steps(self, command: Callable[[SkillBank], T]) -> "Future[T]":
        done: Future[T] = Future()

        def run() -> None:
            if self._bank is None:
                done.set_exception(SkillNotFoundError("any", []))
                return
            try:
                done.set_result(command(self._bank))
            except BemError as err:
                done.set_exception(err)

        with self._changed:
            if self._closing:
                raise EngineClosedError("the engine is closing and changes no skills")
            self._commands.append(run)
            self._changed.notify()
        return done

    def _run(self) -> None:
        try:
            with torch.inference_mode():
                while self._wait_for_work():
                    self._turn()
            self.ended.set_result(None)
        except Exception as err:  # noqa: BLE001 - whatever it is, every client must be told
            self.ended.set_exception(err)
        with self._changed:
            self._closing = True
            left = [row.ticket for row in self._rows] + list(self._waiting)
            self._rows.clear()
            self._waiting.clear()
        for ticket in left:
            ticket.on_piece(EngineClosedError("the engine ended before the request did"))

    def _wait_for_work(self) -> bool:
        """Sleep until there is something to do; False ends the thread."""
        with self._changed:
            while not (self._rows or self._waiting or self._commands or self._closing):
                self._changed.wait()
            if self._abandon:
                return False
            return bool(self._rows or self._waiting or self._commands) or not self._closing

    def _turn(self) -> None:
        """Do what lies between two steps, one piece of one prompt, and one decode step."""
        while self._commands:
            self._commands.popleft()()
        self._drop_late()
        self._admit()
        if prompts := [row for row in self._rows if not row.decoding]:
            self._prefill(prompts[0])
        if decoding := [row for row in self._rows if row.decoding]:
            self._decode(decoding)
        self.counters.running = len(self._rows)

    def _drop_late(self) -> None:
        now = time.monotonic()
        for row in list(self._rows):
            if self._is_over(row.ticket, now):
                self._leave(row)
        with self._changed:
            kept = [ticket for ticket in self._waiting if not self._is_over(ticket, now)]
            self._waiting = deque(kept)
            self.counters.waiting = len(kept)

    def _is_over(self, ticket: Ticket, now: float) -> bool:
        deadline = ticket.request.deadline
        if not ticket.cancelled and (deadline is None or now < deadline):
            return False
        self.counters.dropped += 1
        if not ticket.cancelled:
            ticket.on_piece(DeadlineExceededError("the deadline passed before the last token"))
        return True

    def _admit(self) -> None:
        while self._free and self._waiting:
            with self._changed:
                ticket = self._waiting.popleft()
                self.counters.waiting = len(self._waiting)
            try:
                skill = self._lease(ticket.request.skill)
            except SkillNotFoundError as err:
                ticket.on_piece(err)
                continue
            slot = heapq.heappop(self._free)
            self._rows.append(Row(ticket, slot, self.backbone, skill, self.safety))

    def _lease(self, name: str | None) -> LoadedSkill | None:
        if name is None:
            return None
        if self._bank is None:
            raise SkillNotFoundError(name, [])
        return self._bank.acquire(name)

    def _prefill(self, row: Row) -> None:
        """Advance one prompt by one piece: first all of it through the lower half, then upper."""
        done = row.lower_tokens
        if done < len(row.prompt):
            piece = row.prompt[done : done + PREFILL_TOKENS]
            ids = torch.tensor([piece], device=self._device)
            span = self._decoder.span([row.slot], [done], len(piece))
            row.keep_lower(*self._decoder.lower(ids, span))
            if row.lower_tokens == len(row.prompt):
                row.begin_code()
            return
        hidden = row.take_lower()
        size = hidden.shape[1]
        self._set_codes([row])
        hidden = self._decoder.upper(hidden, self._decoder.span([row.slot], [row.position], size))
        row.position += size
        self.counters.prompt_tokens += size
        if row.decoding:
            self._take(row, row.sampler.choose(self._decoder.logits(hidden)[0]))

    def _decode(self, rows: list[Row]) -> None:
        ids = torch.tensor([[row.next_token] for row in rows], device=self._device)
        span = self._decoder.span(
            [row.slot for row in rows], [row.position for row in rows], tokens=1
        )
        hidden, features = self._decoder.lower(ids, span)
        self._set_codes(rows)
        logits = self._decoder.logits(self._decoder.upper(hidden, span))
        self.counters.steps += 1
        for index, row in enumerate(rows):
            row.position += 1
            row.observe_decoded(features[index, 0])
            self._take(row, row.sampler.choose(logits[index]))

    def _take(self, row: Row, token: int) -> None:
        """Give one chosen token to its request, and end the request if it was the last."""
        request = row.ticket.request
        if token in self.backbone.end_token_ids:
            self._finish(row, "", "stop")
            return
        row.next_token = token
        row.generated += 1
        self.counters.generated_tokens += 1
        text = row.text.push(token)
        if row.text.stopped:
            self._finish(row, text, "stop")
        elif row.generated >= request.max_tokens or row.position >= self.context_tokens:
            self._finish(row, text, "length")
        elif text:
            row.ticket.on_piece(Piece(text, row.generated))

    def _finish(self, row: Row, text: str, finish: Finish) -> None:
        row.ticket.on_piece(Piece(text + row.text.finish(), row.generated, finish))
        self._leave(row)

    def _leave(self, row: Row) -> None:
        self._rows.remove(row)
        heapq.heappush(self._free, row.slot)
        if row.skill and self._bank:
            self._bank.release(row.skill)
        self._seconds_each += 0.2 * (time.monotonic() - row.began - self._seconds_each)

    def _set_codes(self, rows: list[Row]) -> None:
        """Tell the sites each row's skill and safety; rows of the base model get zero codes."""
        if self._bank is None:
            return
        guarded = [row for row in rows if row.strength]
        if not guarded and not any(row.skill and row.ticket.request.skill_scale for row in rows):
            self._bank.rows.clear()
            return
        width = 2 if guarded else 1
        codes = torch.zeros(len(rows), width, self._bank.rank, device=self._device)
        slots = torch.zeros(len(rows), width, dtype=torch.int64, device=self._device)
        for index, row in enumerate(rows):
            if row.skill and row.code is not None:
                slots[index, 0] = row.skill.slot
                codes[index, 0, : len(row.code)] = row.code * row.ticket.request.skill_scale
            if row.safety and row.strength:
                slots[index, 1] = row.safety.slot
                codes[index, 1, : row.safety.rank] = row.strength
        self._bank.rows.set(slots, codes)

    def _retry_after(self) -> float:
        """Estimate when a row is free for one more: the queue's length in recent request times."""
        turns = (len(self._waiting) + 1) / max(1, len(self._rows) + len(self._free))
        return min(60.0, max(0.5, turns * self._seconds_each))
