"""Output stream: samples the tokens of one request and emits their text as output deltas."""

from collections.abc import Iterable
from typing import Any

from torch import Tensor

from bem.engine.api import FinishReason, OutputDelta, RequestHandle, TokenLogprob, TopLogprob
from bem.engine.detokenizer import Detokenizer, TokenBytes
from bem.engine.grammar import TokenMask
from bem.engine.sampler import SampledToken, Sampler


class OutputStream:
    """Sampler, detokenizer and stop conditions of one request.

    Args:
        handle: The request; receives the deltas.
        tokenizer: Tokenizer of the model.
        token_bytes: Maps a token id to its bytes.
        end_token_ids: Tokens that end a turn.
        adapter_version: Adapter version that every delta reports; empty for the base model.
        mask: Tokens that the form of the output allows; None for any text.

    Attributes:
        finish: Finish reason of an ended request; None before its end.
        generated_tokens: Tokens generated so far, without the end token.
        cached_tokens: Prompt tokens whose keys and values came from the prefix cache.
        prompt_state: ``[F]`` mean state of the prompt for the next delta, or None.
    """

    def __init__(
        self,
        handle: RequestHandle,
        tokenizer: Any,
        token_bytes: TokenBytes,
        end_token_ids: frozenset[int],
        adapter_version: str = "",
        *,
        mask: TokenMask | None = None,
    ) -> None:
        request = handle.request
        self._handle = handle
        self._sampler = Sampler(request.sampling, request.prompt_ids)
        self._detokenizer = Detokenizer(tokenizer, request.stop)
        self._token_bytes = token_bytes
        ends: frozenset[int] = frozenset() if request.ignore_eos else end_token_ids
        self._end_token_ids = ends | request.stop_token_ids
        self._adapter_version = adapter_version
        self._mask = mask
        self._echo = request.echo or ""
        self._echo_logprobs: list[TokenLogprob] = []
        self._pending_logprobs: list[tuple[int, TokenLogprob]] = []
        self.finish: FinishReason | None = None
        self.generated_tokens = 0
        self.cached_tokens = 0
        self.prompt_state: Tensor | None = None

    def sample_next(self, logits: Tensor, *, context_left: bool) -> int | None:
        """Sample the next token from ``logits [V]`` and emit the text that is certain now.

        Args:
            logits: float32 logits.
            context_left: Whether the context has room for one more token.

        Returns:
            The token, or None when the request has ended.

        Raises:
            InvalidRequestError: The form of the output is too complex, or no token continues it.
        """
        if self._handle.request.max_tokens == 0:
            self._finish("", "length")
            return None
        min_tokens = self._handle.request.min_tokens
        banned = self._end_token_ids if self.generated_tokens < min_tokens else ()
        allowed = self._mask.allowed() if self._mask else None
        sampled = self._sampler.sample(logits, banned, allowed)
        if sampled.token in self._end_token_ids:
            if self._handle.request.scores_prompt:  # clients cut off the entry behind the prompt
                self._pending_logprobs.append((0, self._token_logprob(sampled)))
            self._finish("", "stop")
            return None
        self.generated_tokens += 1
        can_stop = self.generated_tokens > min_tokens
        text = self._detokenizer.push(sampled.token, can_stop=can_stop)
        if self._handle.request.sampling.logprobs is not None:
            self._pending_logprobs.append(
                (self._detokenizer.received_characters, self._token_logprob(sampled))
            )
        complete = self._mask is not None and self._mask.advance(sampled.token)
        stopped = self._detokenizer.stopped or complete
        exhausted = self.generated_tokens >= self._handle.request.max_tokens or not context_left
        if stopped or exhausted:
            self._finish(text, "stop" if stopped else "length")
            return None
        if text:
            self._emit(text, None)
        return sampled.token

    def add_prompt_tokens(self, tokens: Iterable[SampledToken]) -> None:
        """Take the next tokens of the prompt, which leave with the first delta.

        Args:
            tokens: Tokens with their log-probabilities, in the order of the prompt. The first call
                begins with the token behind the prompt's first one.
        """
        if not self._echo_logprobs:
            first = self._handle.request.prompt_ids[0]
            self._echo_logprobs.append(
                TokenLogprob(first, self._token_bytes(first), 0.0, unconditioned=True)
            )
        self._echo_logprobs += [self._token_logprob(one) for one in tokens]

    def _finish(self, text: str, reason: FinishReason) -> None:
        self.finish = reason
        self._emit(text + self._detokenizer.finish(), reason)

    def _emit(self, text: str, finish: FinishReason | None) -> None:
        delta = OutputDelta(
            self._echo + text,
            self.generated_tokens,
            finish,
            (*self._echo_logprobs, *self._take_logprobs()),
            self._adapter_version,
            self.cached_tokens,
            self.prompt_state,
        )
        self.prompt_state = None
        self._echo, self._echo_logprobs = "", []
        self._handle.on_output(delta)

    def _take_logprobs(self) -> tuple[TokenLogprob, ...]:
        """Return the log-probabilities of tokens whose text is released; none leaves before it."""
        if not self._pending_logprobs:
            return ()
        released = self._detokenizer.released_characters
        ready = [logprob for end, logprob in self._pending_logprobs if end <= released]
        del self._pending_logprobs[: len(ready)]
        return tuple(ready)

    def _token_logprob(self, sampled: SampledToken) -> TokenLogprob:
        top = tuple(
            TopLogprob(token, self._token_bytes(token), value) for token, value in sampled.top
        )
        return TokenLogprob(sampled.token, self._token_bytes(sampled.token), sampled.logprob, top)
