"""Training examples of the safety adapter: the refusal and the two sides of the objective."""

from dataclasses import dataclass

from bem.backbone import Backbone
from bem.training.activation_cache import EncodedExample

REFUSAL = "I'm sorry, but I can't help with that."
"""Reply that the safety adapter learns to give to attacks."""

OPENING = "I'm sorry, but I"
"""Beginning of the refusal that decides whether a reply is one."""


@dataclass(frozen=True)
class SafetyExamples:
    """Encoded training examples of both sides of the objective.

    Attributes:
        attacks: ``{category: examples}``; their reply is the refusal.
        harmless: Harmless prompts; their reply is the base model's own.
        digest: SHA-256 over all keys of the prompts, hexadecimal.
    """

    attacks: dict[str, list[EncodedExample]]
    harmless: list[EncodedExample]
    digest: str


def refusal_ids(backbone: Backbone) -> list[int]:
    """Return the token ids of the refusal with its end of turn."""
    ids: list[int] = backbone.tokenizer.encode(REFUSAL, add_special_tokens=False)
    return [*ids, min(backbone.end_token_ids)]


def opening_ids(backbone: Backbone) -> list[int]:
    """Return the token ids of the refusal's opening: 6 of SmolLM2, 7 of Gemma."""
    ids, decode = refusal_ids(backbone), backbone.tokenizer.decode
    return ids[: next(n for n in range(1, len(ids)) if decode(ids[:n]).startswith(OPENING))]
