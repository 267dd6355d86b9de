"""Training examples and a short configuration for the tiny base model."""

from dataclasses import dataclass

from bem.testing import tiny_backbone
from bem.training.activation_cache import EncodedExample, encode_items
from bem.training.trainer import TrainingConfig


@dataclass(frozen=True)
class Item:
    """A question with its answer."""

    question: str
    answer: str

    def prompt(self) -> str:
        """Return the user's message."""
        return self.question

    def reply(self) -> str:
        """Return the reply to learn."""
        return self.answer


ITEMS = [Item(f"p{i}" + "x" * (7 * i) + "q", f"a{i}") for i in range(6)]


def examples(first_layer: int = 2, feature_layer: int = 0) -> list[EncodedExample]:
    """Return a few examples of different lengths."""
    return encode_items(
        tiny_backbone(), ITEMS, first_layer=first_layer, feature_layer=feature_layer
    )


def training_config(epochs: int) -> TrainingConfig:
    """Return a short configuration for layers 2 and 3."""
    return TrainingConfig(
        layers=(2, 3), rank=4, feature_layer=0, epochs=epochs, batch=4, learning_rate=0.01
    )
