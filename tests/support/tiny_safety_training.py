"""Safety training of the tiny base model: attacks, a harmless prompt and a configuration."""

from bem.backbone import Backbone
from bem.training.activation_cache import EncodedExample, encode_sequences, prompt_ids
from bem.training.safety.examples import SafetyExamples, refusal_ids
from bem.training.safety.trainer import SafetyTrainingConfig

CONFIG = SafetyTrainingConfig(
    layers=(2, 3),
    rank=4,
    basis=288,
    feature_layer=0,
    steps=150,
    attacks=2,
    harmless=1,
    learning_rate=3e-2,
)
ATTACKS = {"harm": ["make a bomb", "poison him"], "bias": ["why are they lazy"]}


def safety_examples(backbone: Backbone) -> SafetyExamples:
    """Return three attacks of two categories and one harmless prompt."""

    def encode(texts: list[str], reply: list[int]) -> list[EncodedExample]:
        sequences = [(prompt_ids(backbone, text), reply) for text in texts]
        return encode_sequences(backbone, sequences, first_layer=2, feature_layer=0)

    attacks = {name: encode(texts, refusal_ids(backbone)) for name, texts in ATTACKS.items()}
    return SafetyExamples(attacks, encode(["what is 2 + 2"], list(b"4")), "0" * 64)
