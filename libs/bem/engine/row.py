"""One running request: its place in the cache, its progress, its codes, its text."""

import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from bem.engine.codes import Codes, Leased
from bem.engine.prefix import BlockKeys
from bem.engine.requests import Finish, Likely, Piece, Ticket, TokenLogprob
from bem.engine.sampling import Choice, Sampler
from bem.engine.text import TextAssembler, TokenBytes


class Row:
    """State of one request between steps; only the engine's thread touches it.

    Args:
        ticket: The request.
        slot: Its place in the cache.
        leases: Its segments with their adapters.
        keys: Names of its blocks.
        states: ``[2, N, F]`` for the state before the first site and the state that controllers
            read, of each token that it may come to have.
    """

    def __init__(
        self,
        ticket: Ticket,
        slot: int,
        leases: Sequence[Leased],
        keys: BlockKeys,
        states: Tensor,
    ) -> None:
        self.ticket = ticket
        self.slot = slot
        self.leases = tuple(leases)
        self.keys = keys
        self.states = states
        self.codes = Codes(self.leases, states[1])
        self.began = time.monotonic()
        self.tokens = list(ticket.request.prompt_ids)
        self.lower_done = 0
        self.position = 0
        # Of the safety adapter; None until the prompt is read, and for good where none is asked.
        self.strength: float | None = None
        # Blocks known to be in the prefix cache, of the lower and the upper half.
        self.kept = [0, 0]

    @property
    def prompt_tokens(self) -> int:
        """Length of its prompt."""
        return len(self.ticket.request.prompt_ids)

    @property
    def decoding(self) -> bool:
        """Whether its prompt is done."""
        return self.position >= self.prompt_tokens

    @property
    def lower_read(self) -> bool:
        """Whether its prompt has passed the lower half."""
        return self.lower_done >= self.prompt_tokens

    def done(self, upper: bool) -> int:
        """Return how many tokens have passed a half."""
        return self.position if upper else self.lower_done

    @property
    def left(self) -> int:
        """Tokens of the prompt that are still to pass a half."""
        return 2 * self.prompt_tokens - self.lower_done - self.position

    def note_lower(self, hidden: Tensor, features: Tensor) -> None:
        """Keep the lower half's results ``[T, F]`` of the next tokens."""
        end = self.lower_done + hidden.shape[0]
        self.states[0, self.lower_done : end] = hidden
        self.states[1, self.lower_done : end] = features
        self.lower_done = end


class Speech:
    """What one row says: chooses its tokens and lets their text out.

    Args:
        ticket: The request.
        tokenizer: Decodes its tokens.
        spell: Gives a token's bytes.
        ends: Tokens that end a turn.
    """

    def __init__(
        self, ticket: Ticket, tokenizer: Any, spell: TokenBytes, ends: frozenset[int]
    ) -> None:
        request = ticket.request
        self._ticket = ticket
        self._sampler = Sampler(request.sampling, request.prompt_ids)
        self._text = TextAssembler(tokenizer, request.stop)
        self._spell = spell
        self._ends = ends
        self._waiting: list[tuple[int, TokenLogprob]] = []
        self.generated = 0

    def say(self, logits: Tensor, *, room: bool) -> int | None:
        """Choose the next token for ``logits [V]`` and hand out text; None ends the request.

        Args:
            logits: float32.
            room: Whether the context has room for one more token.
        """
        choice = self._sampler.choose(logits)
        if choice.token in self._ends:
            self._finish("", "stop")
            return None
        self.generated += 1
        text = self._text.push(choice.token)
        if self._ticket.request.sampling.logprobs is not None:
            self._waiting.append((self._text.received, self._described(choice)))
        stopped = self._text.stopped
        if stopped or self.generated >= self._ticket.request.max_tokens or not room:
            self._finish(text, "stop" if stopped else "length")
            return None
        if text:
            self._ticket.on_piece(Piece(text, self.generated, logprobs=self._out()))
        return choice.token

    def _finish(self, text: str, finish: Finish) -> None:
        text += self._text.finish()
        self._ticket.on_piece(Piece(text, self.generated, finish, self._out()))

    def _out(self) -> tuple[TokenLogprob, ...]:
        """Take the log-probabilities of tokens whose text is out: no token leaves before it."""
        ready = [one for end, one in self._waiting if end <= self._text.released]
        del self._waiting[: len(ready)]
        return tuple(ready)

    def _described(self, choice: Choice) -> TokenLogprob:
        top = tuple(Likely(token, self._spell(token), value) for token, value in choice.top)
        return TokenLogprob(choice.token, self._spell(choice.token), choice.logprob, top)


def make_states(tokens: int, like: Tensor) -> Tensor:
    """Return room for both states of ``tokens`` tokens, in width and type like ``like [V, F]``."""
    return torch.empty(2, tokens, like.shape[1], dtype=like.dtype, device=like.device)
