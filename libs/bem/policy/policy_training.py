"""Training of a policy on an outcome table: behaviour cloning, then TRPO."""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from bem.errors import InvalidSettingError
from bem.policy.advantages import generalized_advantages
from bem.policy.network import ActionValueNetwork, PolicyNetwork
from bem.policy.outcomes import Episodes, OutcomeTable, best_plans, sample_episodes
from bem.policy.trpo import TrpoBatch, TrpoSettings, TrpoUpdate, update_policy

_MIN_WEIGHT = 0.05
"""Weight of an item whose plans are equally good: it teaches little, but not nothing."""


@dataclass(frozen=True)
class PolicyTraining:
    """Settings of cloning and of TRPO.

    Attributes:
        clone_steps: Steps of behaviour cloning; 0 leaves it out.
        clone_lr: Learning rate of cloning and of the action values.
        label_smoothing: Share of the target that is spread over the allowed actions.
        updates: Updates of TRPO; 0 leaves it out.
        episodes: Episodes of one update.
        max_kl: Trust region of one update, nats.
        entropy_bonus: Weight of the entropy in the first update.
        final_entropy_bonus: Weight in the last update; geometric in between.
        smoothing: Lambda of the advantage estimation.
        hidden: Width of the hidden layers.
        seed: Random seed.

    Raises:
        InvalidSettingError: A setting is out of its range.
    """

    clone_steps: int = 300
    clone_lr: float = 1e-2
    label_smoothing: float = 0.05
    updates: int = 100
    episodes: int = 512
    max_kl: float = 0.01
    entropy_bonus: float = 0.01
    final_entropy_bonus: float = 0.001
    smoothing: float = 0.97
    hidden: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        bonuses = 0 < self.final_entropy_bonus <= self.entropy_bonus
        if min(self.clone_steps, self.updates) < 0 or self.episodes < 1 or not bonuses:
            raise InvalidSettingError(
                "policy training: steps and updates are at least 0, episodes at least 1, and the "
                f"entropy bonus falls to a number above 0; got {self}"
            )

    def bonus(self, update: int) -> float:
        """Return the entropy bonus of an update, from 0."""
        share = update / max(1, self.updates - 1)
        return self.entropy_bonus * (self.final_entropy_bonus / self.entropy_bonus) ** share


@dataclass(eq=False)
class TrainedPolicy:
    """Networks of a trained policy with the record of its training.

    Attributes:
        policy: Policy over the actions of the table's tree.
        values: Expected reward after each action.
        clone_losses: Weighted cross-entropy of each cloning step, nats.
        updates: Record of each update of TRPO.
    """

    policy: PolicyNetwork
    values: ActionValueNetwork
    clone_losses: list[float] = field(default_factory=list)
    updates: list[TrpoUpdate] = field(default_factory=list)


def train_policy(table: OutcomeTable, settings: PolicyTraining) -> TrainedPolicy:
    """Clone each item's best plan, fit the action values, then improve by TRPO.

    Args:
        table: Outcomes of the training items.
        settings: Settings; the same seed gives the same policy.
    """
    generator = torch.Generator().manual_seed(settings.seed)
    width = table.features.shape[1] + table.tree.features.shape[1]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        trained = TrainedPolicy(
            PolicyNetwork(width, table.tree.factors, settings.hidden),
            ActionValueNetwork(width, len(table.tree.actions), settings.hidden),
        )
    trained.clone_losses = clone_policy(trained.policy, table, settings)
    fit_action_values(trained.policy, trained.values, table, settings, steps=settings.clone_steps)
    for update in range(settings.updates):
        items = torch.randint(len(table), (settings.episodes,), generator=generator)
        episodes = sample_episodes(trained.policy, table, items, generator)
        batch = _trpo_batch(trained, episodes, settings.smoothing)
        bounds = TrpoSettings(max_kl=settings.max_kl, entropy_bonus=settings.bonus(update))
        trained.updates.append(update_policy(trained.policy, batch, bounds))
        fit_action_values(trained.policy, trained.values, table, settings, steps=5)
    return trained


def clone_policy(
    policy: PolicyNetwork, table: OutcomeTable, settings: PolicyTraining
) -> list[float]:
    """Fit the policy to the best plan of each item, weighted by its lead; return the losses."""
    best, lead = best_plans(table)
    states, masks, targets, weights = [], [], [], []
    for place in range(len(table.tree.plans)):
        rows = (best == place).nonzero().squeeze(1)
        for node, action in table.tree.path(place):
            node_features = table.tree.features[node].expand(len(rows), -1)
            states.append(torch.cat([table.features[rows], node_features], dim=-1))
            masks.append(table.tree.masks[node].expand(len(rows), -1))
            targets.append(torch.full((len(rows),), action))
            weights.append(lead[rows].clamp(min=_MIN_WEIGHT))
    features, allowed = torch.cat(states), torch.cat(masks)
    wanted = _smooth(torch.cat(targets), allowed, settings.label_smoothing)
    weight = torch.cat(weights)
    optimizer = torch.optim.Adam(policy.parameters(), lr=settings.clone_lr)
    losses = []
    for _ in range(settings.clone_steps):
        crossed = -(wanted * policy(features, allowed)).sum(-1)
        loss = (weight * crossed).sum() / weight.sum()
        _step(optimizer, loss)
        losses.append(float(loss.detach()))
    return losses


def fit_action_values(
    policy: PolicyNetwork,
    values: ActionValueNetwork,
    table: OutcomeTable,
    settings: PolicyTraining,
    *,
    steps: int,
) -> float:
    """Fit the action values to their exact targets under the policy; return the last loss.

    The table knows every reward, so the target of an action is exact: the reward of the plan that
    it ends, or the policy's mean reward over the plans that go on from it.
    """
    states = table.states()
    targets, masks = _exact_action_values(policy, table, states), table.tree.masks
    optimizer = torch.optim.Adam(values.parameters(), lr=settings.clone_lr)
    loss = torch.zeros(())
    for _ in range(steps):
        loss = (values(states) - targets)[:, masks].square().mean()
        _step(optimizer, loss)
    return float(loss.detach())


@torch.no_grad()
def _exact_action_values(policy: PolicyNetwork, table: OutcomeTable, states: Tensor) -> Tensor:
    """Return ``[N, nodes, A]``; 0 for actions that are not allowed."""
    tree = table.tree
    chances = policy(states, tree.masks).exp()
    found = torch.zeros_like(chances)
    # Later nodes are deeper or unrelated, so that every child is computed before its parent.
    for node in reversed(range(len(tree.features))):
        for action in tree.masks[node].nonzero().squeeze(1).tolist():
            ending, child = int(tree.endings[node, action]), int(tree.children[node, action])
            if ending >= 0:
                found[:, node, action] = table.rewards[:, ending]
            else:
                found[:, node, action] = (chances[:, child] * found[:, child]).sum(-1)
    return found


def _trpo_batch(trained: TrainedPolicy, episodes: Episodes, smoothing: float) -> TrpoBatch:
    with torch.no_grad():
        chances = trained.policy(episodes.features, episodes.masks).exp()
        baseline = (chances * trained.values(episodes.features)).sum(-1)
    advantages = generalized_advantages(
        episodes.rewards, baseline, episodes.alive, discount=1.0, smoothing=smoothing
    )
    taken = advantages[episodes.alive]
    scale = taken.std().clamp(min=1e-6) if len(taken) > 1 else torch.ones(())
    return TrpoBatch(
        features=episodes.features[episodes.alive],
        masks=episodes.masks[episodes.alive],
        actions=episodes.actions[episodes.alive],
        advantages=(taken - taken.mean()) / scale,
    )


def _smooth(actions: Tensor, allowed: Tensor, share: float) -> Tensor:
    """Return target distributions ``[N, A]``; forbidden actions get 0."""
    uniform = allowed / allowed.sum(-1, keepdim=True)
    return (1 - share) * nn.functional.one_hot(actions, allowed.shape[-1]) + share * uniform


def _step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
