"""Learned parts of the memory: write gate, dense key, decay of the state, scores and confidence."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as f

from bem.memory.entity_state import HEADS
from bem.memory.slot_format import KEY_WIDTH

GATE_WIDTH = 64
GATE_FEATURES = 4
"""Features of the gate beside the pooled state: share of entities, share of digits, novelty, and
length in 48ths."""

NOVELTY_FEATURE = 2
"""Index of novelty among the features of the gate."""

CONFIDENCE_FEATURES = 4
"""Features of a confidence: best score, margin, salience, share of the question's words."""

COVERAGE_FEATURES = 3
"""Features of a slot's coverage: salience, rarity of its rarest word, and distance to its nearest
other slot."""


class WriteGate(nn.Module):
    """Scores how likely some question asks for a sentence.

    An MLP on the pooled state beside a linear term on surface features. Before training the MLP
    returns 0, so that salience is surface alone: entities, digits and novelty.

    Args:
        width: Width F of the pooled state.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(width, GATE_WIDTH)
        self.out = nn.Linear(GATE_WIDTH, 1, bias=False)
        self.surface = nn.Linear(GATE_FEATURES, 1)
        nn.init.zeros_(self.out.weight)
        with torch.no_grad():
            self.surface.weight.copy_(torch.tensor([[3.0, 6.0, 1.0, 0.5]]))
            self.surface.bias.fill_(-2.0)

    def forward(self, states: Tensor, surface: Tensor) -> Tensor:
        """Return logits ``[N]`` for standardised states ``[N, F]`` and features ``[N, 4]``."""
        learned = self.out(torch.tanh(self.hidden(states)))
        logits: Tensor = (learned + self.surface(surface)).squeeze(-1)
        return logits


@dataclass(frozen=True)
class ScoreWeights:
    """Weights of a slot's score, as plain numbers.

    Attributes:
        dense: Weight of the dense similarity.
        words: Weight of the overlap of rare words.
        state: Weight of the state's pointer.
        recency: Weight of the place in the session, 0 at its beginning and 1 at its end.
    """

    dense: float
    words: float
    state: float
    recency: float


class MemoryModules(nn.Module):
    """All learned parts of the memory.

    Args:
        width: Width F of the pooled states.
        seed: Random seed of the untrained key projection.

    Attributes:
        gate: Write gate.
    """

    center: Tensor
    spread: Tensor

    def __init__(self, width: int, seed: int = 0) -> None:
        super().__init__()
        self.width = width
        self.gate = WriteGate(width)
        self.key = nn.Linear(width, KEY_WIDTH, bias=False)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():  # an untrained projection keeps angles (Johnson-Lindenstrauss)
            self.key.weight.copy_(
                torch.randn(KEY_WIDTH, width, generator=generator) / KEY_WIDTH**0.5
            )
        # a = 0.999 + 0.001 sigmoid(x): half of a mention is left after about 1,400 others.
        self.decay_logits = nn.Parameter(torch.linspace(-1.0, 4.0, HEADS))
        self.score = nn.Parameter(torch.tensor([0.5, 1.0, 0.3, 0.02]))
        self.confidence = nn.Linear(CONFIDENCE_FEATURES, 1)
        with torch.no_grad():
            self.confidence.weight.copy_(torch.tensor([[2.0, 1.0, 0.5, 4.0]]))
            self.confidence.bias.fill_(-4.0)
        self.coverage = nn.Linear(COVERAGE_FEATURES, 1)
        with torch.no_grad():
            self.coverage.weight.copy_(torch.tensor([[1.0, 1.0, 1.0]]))
            self.coverage.bias.fill_(-0.5)
        self.register_buffer("center", torch.zeros(width))
        self.register_buffer("spread", torch.ones(width))

    def standardize(self, states: Tensor) -> Tensor:
        """Return pooled states ``[N, F]`` with the training data's mean 0 and deviation 1."""
        return (states - self.center) / self.spread

    def keys(self, states: Tensor) -> Tensor:
        """Return unit keys ``[N, 96]`` of standardised states ``[N, F]``."""
        return f.normalize(self.key(states), dim=-1)

    def novelty_weight(self) -> float:
        """Return the gate's weight of novelty, which is known only when a sentence is written."""
        return float(self.gate.surface.weight.detach()[0, NOVELTY_FEATURE])

    def decay(self) -> Tensor:
        """Return the decay of each head of the state, ``[4]`` in [0.999, 1]."""
        return 0.999 + 0.001 * torch.sigmoid(self.decay_logits)

    def score_weights(self) -> ScoreWeights:
        """Return the weights of a slot's score."""
        return ScoreWeights(*self.score.tolist())

    @torch.no_grad()
    def confidences(self, features: Tensor) -> Tensor:
        """Return calibrated confidences ``[N]`` in [0, 1] of features ``[N, 4]``."""
        return torch.sigmoid(self.confidence(features)).squeeze(-1)

    @torch.no_grad()
    def coverages(self, features: Tensor) -> Tensor:
        """Return the probability that a question about a slot finds it, ``[N]`` of ``[N, 3]``."""
        return torch.sigmoid(self.coverage(features)).squeeze(-1)
