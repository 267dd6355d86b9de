"""Log-probabilities in OpenAI's two formats: chat completions and text completions."""

import codecs
from collections.abc import Sequence
from typing import Any

from bemfleet.router.v1 import router_pb2 as pb


class LogprobFormatter:
    """Formats the log-probabilities of one choice, delta by delta.

    Args:
        kind: ``chat.completion`` or ``text_completion``, which have different formats.
        enabled: Whether the request asks for log-probabilities; if not, ``format`` returns None.
    """

    def __init__(self, kind: str, *, enabled: bool) -> None:
        self._chat = kind == "chat.completion"
        self._enabled = enabled
        self._offset = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def format(self, tokens: Sequence[pb.TokenLogprob]) -> dict[str, Any] | None:
        """Return the ``logprobs`` object of the next tokens."""
        if not self._enabled:
            return None
        if self._chat:
            content = [
                {
                    **_chat_token(token.chosen),
                    "logprob": _logprob(token),
                    "top_logprobs": _top_tokens(token),
                }
                for token in tokens
            ]
            return {"content": content, "refusal": None}
        return {
            "tokens": [_completion_name(token.chosen) for token in tokens],
            "token_logprobs": [_logprob(token) for token in tokens],
            "top_logprobs": [_by_name(token) for token in tokens],
            "text_offset": [self._next_offset(token.chosen.token) for token in tokens],
        }

    def _next_offset(self, token: bytes) -> int:
        """Return the offset of a token's text in characters.

        A character may be spread over several tokens. The tokens that complete no character have
        the offset at which the character will stand: for ``a``, then ``é`` in two tokens, then
        ``b``, the offsets are 0, 1, 1, 2.
        """
        offset = self._offset
        self._offset += len(self._decoder.decode(token))
        return offset


# OpenAI's value for a token without a log-probability of its own.
_NO_LOGPROB = -9999.0


def _logprob(token: pb.TokenLogprob) -> float | None:
    """Return the log-probability; the sidecar leaves none of a token whose text it replaced."""
    if token.unconditioned:
        return None
    return _NO_LOGPROB if token.redacted else token.chosen.logprob


def _chat_token(token: pb.LikelyToken) -> dict[str, Any]:
    return {"token": _escaped(token), "logprob": token.logprob, "bytes": list(token.token)}


def _top_tokens(token: pb.TokenLogprob) -> list[dict[str, Any]]:
    return [_chat_token(top) for top in token.top]


def _by_name(position: pb.TokenLogprob) -> dict[str, float] | None:
    """Return the log-probabilities by name; each token has an entry of its own.

    The chosen token has one even if it is none of the most likely, as OpenAI's has.
    """
    if position.unconditioned:
        return None
    if position.redacted:
        return {_completion_name(position.chosen): _NO_LOGPROB}
    tokens = list(position.top)
    if all(one.id != position.chosen.id for one in tokens):
        tokens.append(position.chosen)
    named: dict[str, float] = {}
    for token in tokens:
        name = _completion_name(token)
        # Two tokens of a vocabulary can have the same bytes; vLLM names tokens by id this way.
        named[f"token_id:{token.id}" if name in named else name] = token.logprob
    return named


def _completion_name(token: pb.LikelyToken) -> str:
    r"""Return the token as text completions name it; a part of a character is ``bytes:\xf0``."""
    name = _escaped(token)
    return name if name.encode() == token.token else f"bytes:{name}"


def _escaped(token: pb.LikelyToken) -> str:
    r"""Return the token as chat completions name it; a part of a character is ``\xf0``."""
    return token.token.decode(errors="backslashreplace")
