"""Log-probabilities in the two forms that OpenAI's clients read."""

import codecs
from collections.abc import Sequence
from typing import Any

from bemfleet.router.v1 import router_pb2 as pb


class LogprobWriter:
    """Writes the log-probabilities of one choice, piece by piece.

    Args:
        kind: ``chat.completion`` or ``text_completion``, which have different forms.
        asks: Whether the request wants them; if not, everything is null.
    """

    def __init__(self, kind: str, *, asks: bool) -> None:
        self._chat = kind == "chat.completion"
        self._asks = asks
        self._offset = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def write(self, tokens: Sequence[pb.TokenLogprob]) -> dict[str, Any] | None:
        """Return the ``logprobs`` object of the next tokens."""
        if not self._asks:
            return None
        if self._chat:
            content = [{**_chat(one.chosen), "top_logprobs": _tops(one)} for one in tokens]
            return {"content": content, "refusal": None}
        return {
            "tokens": [_text(one.chosen) for one in tokens],
            "token_logprobs": [one.chosen.logprob for one in tokens],
            "top_logprobs": [{_text(top): top.logprob for top in one.top} for one in tokens],
            "text_offset": [self._next_offset(one.chosen.token) for one in tokens],
        }

    def _next_offset(self, token: bytes) -> int:
        """Return where a token's text begins; a part of a character begins where it will stand."""
        offset = self._offset
        self._offset += len(self._decoder.decode(token))
        return offset


def _chat(token: pb.LikelyToken) -> dict[str, Any]:
    return {"token": _text(token), "logprob": token.logprob, "bytes": list(token.token)}


def _tops(token: pb.TokenLogprob) -> list[dict[str, Any]]:
    return [_chat(top) for top in token.top]


def _text(token: pb.LikelyToken) -> str:
    return token.token.decode(errors="replace")
