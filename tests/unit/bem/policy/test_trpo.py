"""Tests of TRPO against the closed-form natural gradient of a softmax bandit."""

import pytest
import torch
from bem.errors import InvalidSettingError
from bem.policy.network import kl_divergence
from bem.policy.trpo import (
    TrpoBatch,
    TrpoSettings,
    fisher_product,
    natural_gradient,
    update_policy,
)
from torch import Tensor, nn

COUNTS = (4, 2, 1, 1)
ADVANTAGES = (0.5, -1.0, 2.0, 0.25)


class Bandit(nn.Module):
    """Softmax over four arms, the same in every state."""

    def __init__(self) -> None:
        super().__init__()
        counts = torch.tensor(COUNTS, dtype=torch.float64)
        self.logits = nn.Parameter((counts / counts.sum()).log())

    def forward(self, features: Tensor, masks: Tensor) -> Tensor:
        """Return the same log-probabilities for every state."""
        del masks
        return torch.log_softmax(self.logits, -1).expand(len(features), -1)


def whole_distribution() -> TrpoBatch:
    """Return a batch in which each arm occurs exactly as often as its probability says."""
    actions = torch.tensor([arm for arm, count in enumerate(COUNTS) for _ in range(count)])
    return TrpoBatch(
        features=torch.zeros(len(actions), 1, dtype=torch.float64),
        masks=torch.ones(len(actions), len(COUNTS), dtype=torch.bool),
        actions=actions,
        advantages=torch.tensor(ADVANTAGES, dtype=torch.float64)[actions],
    )


def test_fisher_products_are_those_of_the_softmax() -> None:
    """The Fisher matrix of a softmax is diag(p) - p p^T."""
    bandit, batch = Bandit(), whole_distribution()
    p = bandit.logits.detach().softmax(-1)
    vector = torch.tensor([0.3, -0.7, 1.1, 0.0], dtype=torch.float64)

    product = fisher_product(bandit, batch, damping=0.0)(vector)

    assert torch.allclose(product, (torch.diag(p) - torch.outer(p, p)) @ vector)


def test_the_natural_gradient_of_a_bandit_is_its_advantage() -> None:
    """In closed form F^+ g is the advantage less its mean over the arms."""
    advantages = torch.tensor(ADVANTAGES, dtype=torch.float64)

    found = natural_gradient(
        Bandit(), whole_distribution(), TrpoSettings(damping=0.0, entropy_bonus=0.0)
    )

    assert torch.allclose(found, advantages - advantages.mean())


def test_an_update_stays_within_the_trust_region_and_uses_it() -> None:
    """The measured divergence is at most the bound, and the step is along the natural gradient."""
    bandit, batch = Bandit(), whole_distribution()
    before = bandit.logits.detach().clone()
    old = bandit(batch.features, batch.masks).detach()
    settings = TrpoSettings(max_kl=0.01, damping=0.0, entropy_bonus=0.0)

    update = update_policy(bandit, batch, settings)

    new = bandit(batch.features, batch.masks).detach()
    measured = float(kl_divergence(old, new).mean())
    step = bandit.logits.detach() - before
    wanted = torch.tensor(ADVANTAGES, dtype=torch.float64)
    wanted = wanted - wanted.mean()
    assert update.accepted
    assert update.surrogate > 0
    assert update.kl == pytest.approx(measured)
    assert 0.004 < measured <= 0.01
    assert torch.allclose(step / step.norm(), wanted / wanted.norm())


def test_a_step_that_leaves_the_trust_region_is_shortened() -> None:
    """The quadratic model is wrong far from the policy, so that the line search backtracks."""
    bandit = Bandit()

    update = update_policy(
        bandit, whole_distribution(), TrpoSettings(max_kl=0.2, damping=0.0, entropy_bonus=0.0)
    )

    assert update.backtracks > 0
    assert 0 < update.kl <= 0.2


def test_a_policy_without_a_better_step_stays_as_it_was() -> None:
    """Advantages of zero give no direction: nothing changes and the divergence is 0."""
    bandit, batch = Bandit(), whole_distribution()
    before = bandit.logits.detach().clone()
    flat = TrpoBatch(batch.features, batch.masks, batch.actions, torch.zeros_like(batch.advantages))

    update = update_policy(bandit, flat, TrpoSettings(entropy_bonus=0.0))

    assert not update.accepted
    assert update.kl == 0
    assert torch.equal(bandit.logits.detach(), before)


def test_the_entropy_bonus_flattens_a_policy() -> None:
    """Without advantages the bonus alone raises the entropy."""
    bandit, batch = Bandit(), whole_distribution()
    flat = TrpoBatch(batch.features, batch.masks, batch.actions, torch.zeros_like(batch.advantages))
    p = bandit.logits.detach().softmax(-1)

    update = update_policy(bandit, flat, TrpoSettings(damping=0.0, entropy_bonus=1.0))

    assert update.entropy > float(-(p * p.log()).sum())


@pytest.mark.parametrize(
    "wrong", [{"max_kl": 0}, {"backtrack": 1}, {"tries": 0}, {"damping": -1.0}, {"iterations": 0}]
)
def test_settings_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    """Each setting has a range."""
    with pytest.raises(InvalidSettingError, match="trpo"):
        TrpoSettings(**wrong)  # type: ignore[arg-type]
