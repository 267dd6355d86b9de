"""Training of the embedding head on cached pooled states: whitening, then a contrastive loss.

Whitening removes the few directions that all states of a language model share. The loss
(InfoNCE, arXiv 1807.03748) asks a question, clean or badly typed, for its passage among those of
the batch, and a badly typed question for its clean form.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as f

from bem.errors import InvalidSettingError
from bem.sep.embedding_head import EmbeddingHead

_RIDGE = 1e-3


@dataclass(frozen=True)
class HeadTraining:
    """Hyperparameters of the head.

    Attributes:
        dimensions: Dimensions of an embedding.
        steps: Steps; 0 leaves the whitening as it is.
        batch: Questions of a step.
        learning_rate: Learning rate of Adam, relative to the mean size of a weight.
        temperature: Divisor of the cosines.
        typed_weight: Weight of the loss between badly typed and clean questions.
        anchor: Weight of the squared distance from the whitening, which few pairs need.
        seed: Seed of the batches.

    Raises:
        InvalidSettingError: A setting is out of its range.
    """

    dimensions: int = 256
    steps: int = 200
    batch: int = 64
    learning_rate: float = 2e-3
    temperature: float = 0.05
    typed_weight: float = 0.5
    anchor: float = 1e-3
    seed: int = 0

    def __post_init__(self) -> None:
        if self.dimensions < 1 or self.steps < 0 or self.batch < 2 or self.temperature <= 0:
            raise InvalidSettingError(
                "dimensions, steps, batch, temperature: at least 1, 0 and 2, and above 0; got "
                f"{self.dimensions}, {self.steps}, {self.batch}, {self.temperature}"
            )


@dataclass(frozen=True, eq=False)
class PooledPairs:
    """Pooled states of questions and passages.

    Attributes:
        passages: ``[P, F]``.
        questions: ``[Q, F]`` clean.
        typed: ``[K, Q, F]`` badly typed, of K kinds.
        owners: ``[Q]`` int64 number of each question's passage.
    """

    passages: Tensor
    questions: Tensor
    typed: Tensor
    owners: Tensor


def whitening_head(states: Tensor, dimensions: int) -> EmbeddingHead:
    """Return the head that whitens states, with the directions of most variance.

    Args:
        states: Pooled states ``[N, F]``, N at least 2.
        dimensions: Dimensions of an embedding, at most F.
    """
    head = EmbeddingHead(states.shape[1], dimensions)
    head.mean.copy_(states.mean(0))
    centred = states - head.mean
    values, vectors = torch.linalg.eigh(centred.T @ centred / len(states))
    values, vectors = values.flip(0)[:dimensions], vectors.flip(1)[:, :dimensions]
    scale = (values.clamp(min=0) + _RIDGE * values[0]).rsqrt()
    with torch.no_grad():
        head.weight.copy_((vectors * scale).T)
    return head


def train_head(pairs: PooledPairs, config: HeadTraining) -> EmbeddingHead:
    """Return a trained head whose dimensions are in the order of their variance.

    Args:
        pairs: Pooled states of training pairs.
        config: Dimensions, steps and weights of the losses.
    """
    states = torch.cat((pairs.passages, pairs.questions, pairs.typed.flatten(0, 1)))
    head = whitening_head(states, config.dimensions)
    start = head.weight.detach().clone()
    size = start.abs().mean().item()
    optimizer = torch.optim.Adam(head.parameters(), lr=config.learning_rate * size)
    generator = torch.Generator().manual_seed(config.seed)
    for _ in range(config.steps):
        order = torch.randperm(len(pairs.questions), generator=generator)[: config.batch]
        kind = int(torch.randint(len(pairs.typed), (), generator=generator))
        distance = ((head.weight - start) / size).square().mean()
        loss = _contrast(head, pairs, order, kind, config) + config.anchor * distance
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return order_dimensions(head, states).requires_grad_(requires_grad=False)


def _contrast(
    head: EmbeddingHead, pairs: PooledPairs, rows: Tensor, kind: int, config: HeadTraining
) -> Tensor:
    clean, typed = head(pairs.questions[rows]), head(pairs.typed[kind, rows])
    numbers, own = pairs.owners[rows].unique(return_inverse=True)
    passages = head(pairs.passages[numbers])
    places = torch.arange(len(rows))
    losses = [
        f.cross_entropy(question @ passages.T / config.temperature, own)
        for question in (clean, typed)
    ]
    near = f.cross_entropy(typed @ clean.T / config.temperature, places)
    return torch.stack(losses).mean() + config.typed_weight * near


@torch.no_grad()
def order_dimensions(head: EmbeddingHead, states: Tensor) -> EmbeddingHead:
    """Rotate a head's dimensions into the order of their variance; all cosines stay.

    Args:
        head: The head, which is changed.
        states: Pooled states ``[N, F]`` on which the variance is taken.
    """
    outputs = (states - head.mean) @ head.weight.T
    _, vectors = torch.linalg.eigh(outputs.T @ outputs)
    head.weight.copy_(vectors.flip(1).T @ head.weight)
    return head


def reciprocal_ranks(questions: Tensor, passages: Tensor, owners: Tensor) -> Tensor:
    """Return ``1 / rank`` of each question's passage by cosine, ``[Q]`` in (0, 1].

    Args:
        questions: Embeddings ``[Q, D]``.
        passages: Embeddings ``[P, D]``.
        owners: ``[Q]`` int64 number of each question's passage.
    """
    cosines = f.normalize(questions, dim=-1) @ f.normalize(passages, dim=-1).T
    own = cosines.gather(1, owners[:, None])
    # Ties count against the question, so that equal embeddings are no success.
    return 1 / (cosines >= own).sum(1).float()
