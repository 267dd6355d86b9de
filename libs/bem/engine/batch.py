"""The rows of one model: who joins, whose prompt advances, and the steps of all."""

import heapq
import time
from dataclasses import dataclass

import torch

from bem.adapters.bank import AdapterBank, LoadedAdapter
from bem.backbone import Backbone
from bem.engine.codes import Leased, Stretch
from bem.engine.forward import Decoder, Plan
from bem.engine.kv import SlotCache
from bem.engine.parts import Group, Part, piece_end
from bem.engine.prefix import BLOCK_TOKENS, BlockKeys, PrefixCache
from bem.engine.requests import GenerationRequest, Segment, Ticket
from bem.engine.row import Row, Speech, make_states
from bem.engine.steps import DecodeSteps, GraphSteps, PlainSteps
from bem.engine.text import TokenBytes
from bem.errors import AdapterNotFoundError, InvalidRequestError, SlotsFullError
from bem.safety import SafetyOverlay

# Of one forward through half of the layers, and twice as many a turn while nobody waits for a step.
PREFILL_TOKENS = 256
# Attention makes late pieces of a long prompt dearer, so that they are half as long.
LATE, LATE_FACTOR = 1024, 2


@dataclass
class Counters:
    """What the engine has done; read by anyone, written by its thread.

    Attributes:
        running: Requests in rows now.
        waiting: Requests in the queue now.
        steps: Decode steps.
        passes: Forwards of any kind, pieces of prompts included.
        prompt_tokens: Tokens of prompts computed.
        reused_tokens: Tokens of prompts whose keys and values came from the prefix cache.
        reused_lower_tokens: The same of the lower half alone, which all adapters share.
        generated_tokens: Tokens generated.
        dropped: Requests cancelled or past their deadline.
        page_ins: Adapters brought into a slot.
    """

    running: int = 0
    waiting: int = 0
    steps: int = 0
    passes: int = 0
    prompt_tokens: int = 0
    reused_tokens: int = 0
    reused_lower_tokens: int = 0
    generated_tokens: int = 0
    dropped: int = 0
    page_ins: int = 0


class Batch:
    """Requests that run together; rows never influence each other.

    Args:
        backbone: The model.
        bank: Its adapters, or None.
        rows: Requests that run at once.
        context_tokens: Prompt and answer together have at most this many.
        prefix_bytes: Memory of the prefix cache; 0 has none.
        composition: Names how adapters are composed; part of every block's key.
        safety: The safety adapter in the bank, or None.
        graphs: Whether decode steps have few shapes and, on CUDA, are replayed as graphs.
        counters: What is done is added here.
    """

    def __init__(
        self,
        backbone: Backbone,
        bank: AdapterBank | None,
        *,
        rows: int,
        context_tokens: int,
        prefix_bytes: int,
        composition: str,
        safety: SafetyOverlay | None,
        graphs: bool,
        counters: Counters,
    ) -> None:
        self._safety = safety
        self.context_tokens = context_tokens
        self.bank = bank
        self.prefix = PrefixCache(prefix_bytes)
        self.rows: list[Row] = []
        self.seconds_each = 1.0
        self._backbone = backbone
        self._like = backbone.model.model.embed_tokens.weight
        positions = context_tokens + graphs  # one more, see GraphSteps
        self._cache = SlotCache(backbone, rows=rows, context_tokens=positions)
        self.decoder = Decoder(backbone, bank, self._cache)
        self._steps: DecodeSteps = (
            GraphSteps(self.decoder, bank, self._cache, context_tokens)
            if graphs
            else PlainSteps(self.decoder, self._like.device)
        )
        self._halves = slice(0, self.decoder.split), slice(self.decoder.split, None)
        self._root = f"{backbone.digest}|{self._like.dtype}|{backbone.weight_format}|{composition}"
        self._free = list(range(rows))  # a heap: attention is cheapest over the lowest slots
        self._spell = TokenBytes(backbone.tokenizer)
        self._speech: dict[Row, Speech] = {}
        self._next: dict[Row, int] = {}
        self._counters = counters
        self._turn = 0

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self._like.device

    @property
    def free(self) -> int:
        """Rows without a request."""
        return len(self._free)

    def join(self, ticket: Ticket) -> bool:
        """Give a request a row; False while requests use all slots of the adapters.

        Raises:
            BemError: The prompt does not fit the context, or an adapter that it names is not loaded,
                cannot be read, or is one more than fit.
        """
        request = ticket.request
        if not 1 <= len(request.prompt_ids) <= self.context_tokens:
            raise InvalidRequestError(
                "prompt_ids",
                f"has {len(request.prompt_ids)} tokens; 1 to {self.context_tokens} fit",
            )
        try:
            leases = self._lease(request)
        except SlotsFullError:
            return False
        room = min(self.context_tokens, len(request.prompt_ids) + request.max_tokens)
        keys = BlockKeys(self._root, leases, request.prompt_ids)
        states = make_states(room, self._like)
        row = Row(ticket, heapq.heappop(self._free), leases, keys, states)
        backbone = self._backbone
        self._speech[row] = Speech(ticket, backbone.tokenizer, self._spell, backbone.end_token_ids)
        self.rows.append(row)
        return True

    def leave(self, row: Row) -> None:
        """Take a request's row, lease and speech away."""
        self.rows.remove(row)
        del self._speech[row]
        self._next.pop(row, None)
        heapq.heappush(self._free, row.slot)
        self._release(row.leases)
        self.seconds_each += 0.2 * (time.monotonic() - row.began - self.seconds_each)

    def step(self) -> None:
        """Compute pieces of prompts, then one token of every row whose prompt is done."""
        decoding = any(row.decoding for row in self.rows)
        budget = self.decoder.piece_tokens if decoding else 2 * PREFILL_TOKENS
        while budget > 0 and (prompts := [row for row in self.rows if not row.decoding]):
            # The oldest prompt gets every second piece, so that none starves; the others go to the
            # one with the least left, so that a long prompt does not hold up short ones.
            self._turn += 1
            row = prompts[0] if self._turn % 2 else min(prompts, key=lambda row: row.left)
            budget -= self._prefill(row, prompts, budget, decoding=decoding)
        if ready := [row for row in self.rows if row.decoding]:
            self._decode(sorted(ready, key=lambda row: row.slot))

    def _lease(self, request: GenerationRequest) -> list[Leased]:
        wanted = request.segments
        names = {one.adapter for one in wanted if one.adapter is not None and one.scale}
        if self.bank and len(names) > self.bank.slots:
            raise InvalidRequestError(
                "former", f"names {len(names)} adapters; {self.bank.slots} can be resident at once"
            )
        leases: list[Leased] = []
        try:
            for segment in wanted:  # not at once: what was leased before an error goes back
                leases.append(Leased(segment, self._adapter(segment)))  # noqa: PERF401
        except BaseException:
            self._release(leases)
            raise
        return leases

    def _adapter(self, segment: Segment) -> LoadedAdapter | None:
        if segment.adapter is None:
            return None
        if self.bank is None:
            raise AdapterNotFoundError(segment.adapter, [])
        if segment.scale == 0:
            self.bank.find(segment.adapter)
            return None
        return self.bank.acquire(segment.adapter)

    def _release(self, leases: list[Leased] | tuple[Leased, ...]) -> None:
        for one in leases:
            if one.adapter and self.bank:
                self.bank.release(one.adapter)

    def _prefill(self, first: Row, prompts: list[Row], budget: int, *, decoding: bool) -> int:
        """Advance one prompt by one piece: first all of it through the lower half, then upper.

        Short pieces of other prompts come along: alone, each would read all weights.

        Returns:
            What it cost of the budget of tokens through half of the layers.
        """
        self._reuse(first)
        upper = first.lower_read
        dear = LATE_FACTOR if decoding and first.done(upper) >= LATE else 1
        limit = max(BLOCK_TOKENS // (2 * dear), min(budget // dear, PREFILL_TOKENS))
        group = Group(self._part(first, limit, upper), limit, self.context_tokens)
        for row in prompts:
            if row is first or group.full:
                continue
            self._reuse(row)
            if row.lower_read is upper:
                group.offer(self._part(row, min(limit, group.longest), upper))
        parts = sorted(group.parts, key=lambda one: one.row.slot)
        self._counters.passes += 1
        if upper:
            self._upper(parts, group.width)
        else:
            self._lower(parts, group.width)
        # The weights are read for a short piece too.
        return max(BLOCK_TOKENS, group.width * len(parts)) * dear

    def _part(self, row: Row, limit: int, upper: bool) -> Part:
        stretch = row.codes.at(row.position) if upper else None
        begin, stop = row.done(upper), row.prompt_tokens
        end = piece_end(begin, limit, stop, stretch.end if stretch else None)
        keys = row.keys.upper if upper else row.keys.lower
        shared = self.prefix.limit_bytes > 0 and begin % BLOCK_TOKENS == 0
        block = keys[begin // BLOCK_TOKENS] if shared and end - begin >= BLOCK_TOKENS else None
        return Part(row, begin, end, block, stretch)

    def _lower(self, parts: list[Part], width: int) -> None:
        ids = [one.row.tokens[one.begin : one.end] for one in parts]
        given = torch.tensor(
            [own + [0] * (width - len(own)) for own in ids], device=self._like.device
        )
        hidden, features = self.decoder.lower(given, self._span(parts, width))
        for index, one in enumerate(parts):
            one.row.note_lower(hidden[index, : one.tokens], features[index, : one.tokens])
            self._keep(one.row, 0, one.row.lower_done)

    def _upper(self, parts: list[Part], width: int) -> None:
        rows = [one.row for one in parts]
        self._set_codes(rows, [one.stretch or Stretch() for one in parts])
        hidden = self._like.new_zeros(len(parts), width, self._like.shape[1])
        for index, one in enumerate(parts):
            hidden[index, : one.tokens] = one.row.states[0, one.begin : one.end]
        hidden = self.decoder.upper(hidden, self._span(parts, width))
        for one in parts:
            self._counters.prompt_tokens += one.tokens
            one.row.position = one.end
            self._keep(one.row, 1, one.end)
        if ready := [index for index, one in enumerate(parts) if one.row.decoding]:
            last = torch.tensor([parts[index].tokens - 1 for index in ready])
            logits = self.decoder.logits(hidden[torch.tensor(ready), last].unsqueeze(1))
            for place, index in enumerate(ready):
                keys = parts[index].row.keys
                self.prefix.touch([*keys.lower, *keys.upper])
                self._say(parts[index].row, logits[place])

    def _span(self, parts: list[Part], tokens: int) -> Plan:
        slots, starts = [one.row.slot for one in parts], [one.begin for one in parts]
        return self.decoder.span(slots, starts, tokens)

    def _decode(self, rows: list[Row]) -> None:
        hidden, features = self._steps.lower(
            [row.slot for row in rows],
            [row.position for row in rows],
            [self._next[row] for row in rows],
        )
        self._set_codes(rows, [row.codes.at(row.position) for row in rows])
        for index, row in enumerate(rows):
            row.note_lower(hidden[index], features[index])
        logits = self._steps.upper().cpu()
        self._counters.steps += 1
        self._counters.passes += 1
        for index, row in enumerate(rows):
            row.position += 1
            self._say(row, logits[index])

    def _say(self, row: Row, logits: torch.Tensor) -> None:
        """Let a row choose its next token; one that ends leaves its blocks and its place."""
        speech = self._speech[row]
        before = speech.generated
        token = speech.say(logits, room=row.position < self.context_tokens)
        self._counters.generated_tokens += speech.generated - before
        if token is not None:
            row.tokens.append(token)
            self._next[row] = token
            return
        row.keys.extend(row.tokens[row.prompt_tokens : row.position])
        self._keep(row, 0, row.position)
        self._keep(row, 1, row.position)
        self.leave(row)

    def _reuse(self, row: Row) -> None:
        """Take what the prefix cache has of the blocks that come next; the last token is left."""
        while block := self._next_block(row.keys.lower, row.lower_done, row.prompt_tokens):
            self._cache.fill(row.slot, self._halves[0], row.lower_done, block[0])
            row.note_lower(block[1][0], block[1][1])
            row.kept[0] += 1
            self._counters.reused_lower_tokens += BLOCK_TOKENS
        if not self._settle(row):
            return
        last = min(row.lower_done, row.prompt_tokens - 1)
        while block := self._next_block(row.keys.upper, row.position, last):
            self._cache.fill(row.slot, self._halves[1], row.position, block[0])
            row.position += BLOCK_TOKENS
            row.kept[1] += 1
            self._counters.reused_tokens += BLOCK_TOKENS

    def _next_block(
        self, keys: list[bytes], done: int, stop: int
    ) -> tuple[torch.Tensor, ...] | None:
        if done % BLOCK_TOKENS or done + BLOCK_TOKENS > stop:
            return None
        return self.prefix.find(keys[done // BLOCK_TOKENS])

    def _keep(self, row: Row, half: int, done: int) -> None:
        """Put the blocks that are whole by now into the prefix cache."""
        keys = row.keys.upper if half else row.keys.lower
        while row.kept[half] < min(len(keys), done // BLOCK_TOKENS):
            begin = row.kept[half] * BLOCK_TOKENS
            end = begin + BLOCK_TOKENS
            key = keys[row.kept[half]]
            row.kept[half] += 1
            if self.prefix.limit_bytes == 0 or key in self.prefix:
                continue
            block = self._cache.copy(row.slot, self._halves[half], begin, end)
            states = () if half else (row.states[:, begin:end].clone(),)
            self.prefix.add(key, (block, *states))

    def _settle(self, row: Row) -> bool:
        """Set how much safety a row gets once its whole prompt is read; tells whether it is set."""
        strength = row.ticket.request.safety_strength
        if self._safety is None or strength == 0 or row.strength is not None:
            return True
        if row.lower_done < row.prompt_tokens:
            return False
        read = row.states[1, : row.prompt_tokens].float().mean(0)
        row.strength = self._safety.request_strength(read, strength)
        if row.strength:
            row.keys.guard(f"{self._safety.version}*{row.strength!r}")
        return True

    def _set_codes(self, rows: list[Row], stretches: list[Stretch]) -> None:
        """Tell the sites each row's adapter and safety; rows of the base model get zero codes."""
        if self.bank is None:
            return
        used = [
            one.adapter.slot for one in stretches if one.adapter and one.adapter.slot is not None
        ]
        guarded = self._safety if any(row.strength for row in rows) else None
        if guarded:
            used.append(guarded.slot)
        if not used:
            self.bank.row_codes.clear()
            return
        device, width = self._like.device, 2 if guarded else 1
        codes = torch.zeros(len(stretches), width, self.bank.rank, device=device)
        # A row of the base model names a slot that is in use anyway.
        slots = torch.full((len(stretches), width), used[0], dtype=torch.int64)
        for index, (row, one) in enumerate(zip(rows, stretches, strict=True)):
            if one.adapter and one.adapter.slot is not None and one.code is not None:
                slots[index, 0] = one.adapter.slot
                codes[index, 0, : len(one.code)] = one.code
            if guarded:
                slots[index, 1] = guarded.slot
                codes[index, 1, : guarded.rank] = row.strength or 0.0
        self.bank.row_codes.set(slots.to(device), codes)
