"""Training examples of the safety adapter: the refusal and the two sides of the objective."""

from dataclasses import dataclass

from bem.backbone import Backbone
from bem.training.activation_cache import EncodedExample

REFUSAL = "I'm sorry, but I can't help with that."
"""Reply that the safety adapter learns to give to attacks."""

OPENING_TOKENS = 6
"""Number of leading tokens of the refusal that decide whether a reply is one."""


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
