"""Outcome table: the score of every plan on every item, computed once; episodes are lookups.

Policies, ablations and baselines are all fitted to and evaluated on one table, so that none of them
generates text and all see the same outcomes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bem.errors import InvalidSettingError
from bem.policy.network import PolicyNetwork
from bem.policy.plan_tree import LEAF, PlanTree


@dataclass(frozen=True, eq=False)
class OutcomeTable:
    """Rewards of all plans of a tree on N items.

    Attributes:
        tree: Plans and their states.
        features: ``[N, F]`` features of the items, the same at every step of a plan.
        rewards: ``[N, plans]`` score less the costs of steps and of cache misses.
    """

    tree: PlanTree
    features: Tensor
    rewards: Tensor

    def __post_init__(self) -> None:
        wanted = (len(self.features), len(self.tree.plans))
        if self.features.dim() != 2 or tuple(self.rewards.shape) != wanted or not len(self):
            raise InvalidSettingError(
                f"outcome table: features {tuple(self.features.shape)} and rewards "
                f"{tuple(self.rewards.shape)} do not match; [items, F] and {wanted} are needed"
            )

    def __len__(self) -> int:
        """Number of items."""
        return len(self.features)

    def states(self) -> Tensor:
        """Return the features of each item at each node, ``[N, nodes, F + width]``."""
        return node_states(self.tree, self.features)


def node_states(tree: PlanTree, features: Tensor) -> Tensor:
    """Return item features with node features: ``[N, F]`` to ``[N, nodes, F + width]``."""
    nodes = len(tree.features)
    return torch.cat(
        [
            features.unsqueeze(1).expand(-1, nodes, -1),
            tree.features.unsqueeze(0).expand(len(features), -1, -1),
        ],
        dim=-1,
    )


def plan_rewards(
    scores: Tensor,
    misses: Tensor,
    steps: Sequence[int],
    *,
    step_cost: float = 0.02,
    miss_cost: float = 0.02,
) -> Tensor:
    """Return score less costs, ``[N, plans]``.

    Args:
        scores: ``[N, plans]`` exact match or F1, in [0, 1].
        misses: ``[N, plans]`` share of the prompt tokens that no prefix cache held, in [0, 1].
        steps: Number of steps of each plan.
        step_cost: Cost of one step.
        miss_cost: Cost of a plan that reuses no key or value.
    """
    return scores - step_cost * torch.tensor(steps, dtype=scores.dtype) - miss_cost * misses


@dataclass(frozen=True, eq=False)
class Episodes:
    """Episodes of a policy on a table, padded to the horizon T.

    Attributes:
        features: ``[E, T, F]`` states.
        masks: ``[E, T, A]`` allowed actions; all allowed where no step is taken.
        actions: ``[E, T]`` actions.
        rewards: ``[E, T]`` reward; that of the plan at its last step, else 0.
        alive: ``[E, T]`` whether the step is taken.
        plans: ``[E]`` plan of each episode.
    """

    features: Tensor
    masks: Tensor
    actions: Tensor
    rewards: Tensor
    alive: Tensor
    plans: Tensor


@torch.no_grad()
def sample_episodes(
    policy: PolicyNetwork, table: OutcomeTable, items: Tensor, generator: torch.Generator
) -> Episodes:
    """Sample one episode of each item.

    Args:
        policy: Policy over the actions of the table's tree.
        table: Outcomes of the items.
        items: ``[E]`` rows of the table; a row may repeat.
        generator: Source of the draws.
    """
    tree, masks = table.tree, table.tree.masks
    node = torch.zeros(len(items), dtype=torch.int64)
    alive = torch.ones(len(items), dtype=torch.bool)
    plans = torch.full((len(items),), LEAF, dtype=torch.int64)
    steps: list[tuple[Tensor, ...]] = []
    for _ in range(tree.horizon):
        features = torch.cat([table.features[items], tree.features[node]], dim=-1)
        # A finished episode stays at the last node, so that its padding is well defined.
        chances = policy(features, masks[node]).exp()
        actions = torch.multinomial(chances, 1, generator=generator).squeeze(1)
        ended = alive & (tree.endings[node, actions] != LEAF)
        plans = torch.where(ended, tree.endings[node, actions], plans)
        reward = torch.where(ended, table.rewards[items, plans.clamp(min=0)], 0.0)
        steps.append((features, masks[node], actions, reward, alive))
        alive = alive & ~ended
        node = torch.where(alive, tree.children[node, actions], node)
    features, allowed, taken, rewards, living = (
        torch.stack(column, 1) for column in zip(*steps, strict=True)
    )
    return Episodes(features, allowed, taken, rewards, living, plans)


def best_plans(table: OutcomeTable) -> tuple[Tensor, Tensor]:
    """Return each item's best plan and its lead over the second best, both ``[N]``.

    Of equal plans the shortest is the best, then the first.
    """
    lengths = torch.tensor([len(plan) for plan in table.tree.plans], dtype=table.rewards.dtype)
    ranked = table.rewards - 1e-6 * lengths
    best = ranked.argmax(1)
    if len(table.tree.plans) == 1:
        return best, torch.ones(len(table))
    first, second = table.rewards.topk(2, dim=1).values.unbind(1)
    return best, first - second
