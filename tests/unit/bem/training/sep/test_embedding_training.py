"""Training of the embedding head on made states."""

import pytest
import torch
from bem.errors import InvalidSettingError
from bem.training.sep.embedding_training import (
    HeadTraining,
    PooledPairs,
    order_dimensions,
    reciprocal_ranks,
    train_head,
    whitening_head,
)


def made_pairs(count: int = 40, width: int = 24) -> PooledPairs:
    """Return pairs that share eight features, below a common part that is far larger."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    meaning = draw(count, 8)

    def states(noise: float) -> torch.Tensor:
        out = draw(count, width) * noise
        out[:, :8] += meaning
        out[:, 8] += 200 + 60 * draw(count)
        return out

    return PooledPairs(states(0.3), states(0.3), states(0.5)[None], torch.arange(count))


def recall(pairs: PooledPairs, embed: object) -> float:
    """Return the share of badly typed questions whose passage is the nearest."""
    ranks = reciprocal_ranks(embed(pairs.typed[0]), embed(pairs.passages), pairs.owners)  # type: ignore[operator]
    return float((ranks == 1).float().mean())


def test_training_finds_what_questions_and_passages_share() -> None:
    """Training beats plain states and whitening."""
    pairs = made_pairs()
    states = torch.cat((pairs.passages, pairs.questions, pairs.typed[0]))
    head = train_head(pairs, HeadTraining(dimensions=12, batch=16))

    plain = recall(pairs, lambda one: one)
    white = recall(pairs, whitening_head(states, 12).requires_grad_(requires_grad=False))
    assert max(plain, white) < recall(pairs, head)
    assert not head.weight.requires_grad


def test_whitened_states_have_unit_variance_in_every_direction() -> None:
    """The mean is gone, and no direction is larger than another."""
    states = torch.randn(400, 6) @ torch.diag(torch.tensor([9.0, 4, 2, 1, 1, 1])) + 5
    head = whitening_head(states, 4).requires_grad_(requires_grad=False)
    outputs = (states - head.mean) @ head.weight.T

    assert torch.allclose(outputs.mean(0), torch.zeros(4), atol=1e-3)
    assert torch.allclose(outputs.T @ outputs / 400, torch.eye(4), atol=0.1)


def test_order_of_dimensions_changes_no_cosine() -> None:
    """Variances fall, cosines stay."""
    states = torch.randn(50, 6)
    head = whitening_head(states, 5)
    torch.manual_seed(1)
    torch.nn.init.normal_(head.weight)
    before = head(states).detach()
    order_dimensions(head, states)
    after = head(states).detach()
    variances = ((states - head.mean) @ head.weight.detach().T).square().mean(0)

    assert torch.allclose(before @ before.T, after @ after.T, atol=1e-4)
    assert torch.equal(variances, variances.sort(descending=True).values)


def test_rank_is_that_of_the_own_passage_and_ties_count_against_it() -> None:
    """The best rank is 1; equal embeddings are no success."""
    passages = torch.eye(3)
    questions = torch.tensor([[1.0, 0.5, 0.1], [1.0, 0.5, 0.1]])

    assert reciprocal_ranks(questions, passages, torch.tensor([0, 1])).tolist() == [1.0, 0.5]
    same = torch.ones(3, 3)
    assert reciprocal_ranks(same, same, torch.arange(3)).tolist() == pytest.approx([1 / 3] * 3)


def test_settings_out_of_range_are_refused() -> None:
    """A batch needs a passage to tell apart."""
    for settings in ({"batch": 1}, {"dimensions": 0}, {"steps": -1}):
        with pytest.raises(InvalidSettingError, match="dimensions, steps, batch"):
            HeadTraining(**settings)
