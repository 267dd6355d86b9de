"""Token ids of a sentence in slots: pieces of at most 48 tokens that spell exactly their text."""

from dataclasses import dataclass
from typing import Any

from bem.errors import UnsupportedBackboneError
from bem.memory.sentences import Sentence
from bem.memory.slot_format import MAX_TOKEN_ID, SLOT_TOKENS
from bem.prompt_encoding import PromptEncoder

# A character of UTF-8 is at most four tokens of a byte-level vocabulary.
_CHARACTER_TOKENS = 4
_SAMPLE = "  A line,\n\tanother ' one\u2019 \u00bd 漢字 <|im_end|> é.  "


@dataclass(frozen=True)
class TokenPiece:
    """A piece of a sentence that fits a slot.

    Attributes:
        ids: Token ids, 1 to 48.
        text: Characters that they spell.
        begin: Offset of the first character in the session's text.
    """

    ids: tuple[int, ...]
    text: str
    begin: int


class SlotTokenizer:
    """Cuts sentences into pieces of token ids; control tokens spelled in a text are text.

    Args:
        tokenizer: Tokenizer of the base model.

    Raises:
        UnsupportedBackboneError: The ids do not fit a slot, or do not spell the text exactly.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._encoder = PromptEncoder(tokenizer)
        if len(tokenizer) > MAX_TOKEN_ID + 1:
            raise UnsupportedBackboneError(
                f"backbone: its vocabulary has {len(tokenizer)} tokens; memory slots hold ids up "
                f"to {MAX_TOKEN_ID}; use a model with a smaller vocabulary"
            )
        if self.text(self._encoder.encode_text(_SAMPLE)) != _SAMPLE:
            raise UnsupportedBackboneError(
                "backbone: its tokenizer changes white space or characters, so that a slot could "
                "not cite a text exactly; use a model with a byte-level tokenizer"
            )

    def pieces(self, sentence: Sentence) -> list[TokenPiece]:
        """Cut a sentence into pieces; together they spell it."""
        ids = self._encoder.encode_text(sentence.text)
        pieces, first, spelled = [], 0, 0
        while first < len(ids):
            last = self._clean_end(sentence.text, ids, first, spelled)
            text = self.text(ids[first:last])
            pieces.append(TokenPiece(tuple(ids[first:last]), text, sentence.begin + spelled))
            first, spelled = last, spelled + len(text)
        return pieces

    def text(self, ids: list[int]) -> str:
        """Return the text that ids spell."""
        text: str = self._tokenizer.decode(
            ids, skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        return text

    def _clean_end(self, text: str, ids: list[int], first: int, spelled: int) -> int:
        """Return the last index of a piece that does not end within a character."""
        last = min(first + SLOT_TOKENS, len(ids))
        if last == len(ids):
            return last
        for end in range(last, max(first, last - _CHARACTER_TOKENS), -1):
            if text.startswith(self.text(ids[first:end]), spelled):
                return end
        return last
