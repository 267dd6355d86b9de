"""Plan tree: all states that plans pass through, as index tensors for batched episodes.

The tree is the same for every request: contracts alone decide which action may follow. A node
stands for the actions taken so far; its features are the stage, the previous action and the number
of steps taken.

Example: with the actions ``retrieve``, ``formalize`` and ``general``, the root has the children
``retrieve`` (a node) and ``general`` (a leaf, plan 2); ``retrieve`` has two leaves.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from bem.errors import InvalidSettingError
from bem.policy.actions import (
    CONTRACTS,
    HORIZON,
    SCOPES,
    SPANS,
    STAGES,
    MacroAction,
    Plan,
    enumerate_plans,
)

LEAF = -1


class PlanTree:
    """States and plans of a list of actions.

    Args:
        actions: Distinct actions that a policy chooses from.
        horizon: Most steps of a plan, 1 to ``HORIZON``.

    Attributes:
        actions: The actions; their order is the order of a policy's outputs.
        horizon: Most steps of a plan.
        plans: Every plan, in a fixed order.
        children: ``[nodes, actions]``; the next node, or -1 where a plan ends or none goes on.
        endings: ``[nodes, actions]``; the plan that ends with the action, or -1.
        features: ``[nodes, width]`` features of each node.
        factors: ``[actions, factors]``; ones for adapter, scope, span and rank budget.

    Raises:
        InvalidSettingError: The actions repeat, or make no plan.
    """

    def __init__(self, actions: Sequence[MacroAction], horizon: int = HORIZON) -> None:
        if len(set(actions)) != len(actions) or not 1 <= horizon <= HORIZON:
            raise InvalidSettingError(
                f"actions: they must be distinct, and the horizon {horizon} from 1 to {HORIZON}"
            )
        self.actions: Plan = tuple(actions)
        self.horizon = horizon
        self.plans: tuple[Plan, ...] = tuple(enumerate_plans(actions, horizon))
        if not self.plans:
            raise InvalidSettingError(
                f"actions: no plan of at most {horizon} steps writes a reply; add general"
            )
        prefixes: dict[Plan, int] = {(): 0}
        for plan in self.plans:
            for length in range(1, len(plan)):
                prefixes.setdefault(plan[:length], len(prefixes))
        self._nodes = prefixes
        self.children = torch.full((len(prefixes), len(actions)), LEAF, dtype=torch.int64)
        self.endings = torch.full((len(prefixes), len(actions)), LEAF, dtype=torch.int64)
        index = {action: place for place, action in enumerate(actions)}
        for place, plan in enumerate(self.plans):
            self.endings[prefixes[plan[:-1]], index[plan[-1]]] = place
            for length in range(1, len(plan)):
                at = prefixes[plan[: length - 1]], index[plan[length - 1]]
                self.children[at] = prefixes[plan[:length]]
        self.features = torch.stack([_node_features(one, index) for one in prefixes])
        self.factors = _action_factors(self.actions)

    @property
    def masks(self) -> Tensor:
        """``[nodes, actions]``; whether an action is allowed at a node."""
        return (self.children != LEAF) | (self.endings != LEAF)

    def path(self, plan: int) -> list[tuple[int, int]]:
        """Return the node and the index of the action of each step of a plan."""
        actions = self.plans[plan]
        return [
            (self._nodes[actions[:length]], self.actions.index(action))
            for length, action in enumerate(actions)
        ]

    def plan_log_probabilities(self, log_probabilities: Tensor) -> Tensor:
        """Return the log-probability of each plan.

        Args:
            log_probabilities: ``[..., nodes, actions]``.

        Returns:
            ``[..., plans]``; the probabilities of one state sum to 1.
        """
        columns = []
        for place in range(len(self.plans)):
            nodes, actions = zip(*self.path(place), strict=True)
            columns.append(log_probabilities[..., list(nodes), list(actions)].sum(-1))
        return torch.stack(columns, -1)


def _node_features(begun: Plan, index: dict[MacroAction, int]) -> Tensor:
    """Return one-hot stage, one-hot previous action and the share of steps taken."""
    stage = begun[-1].contract.returns if begun else "start"
    features = torch.zeros(len(STAGES) + len(index) + 1)
    features[STAGES.index(stage)] = 1
    if begun:
        features[len(STAGES) + index[begun[-1]]] = 1
    features[-1] = len(begun) / HORIZON
    return features


def _action_factors(actions: Plan) -> Tensor:
    budgets = sorted({action.rank_budget for action in actions})
    names: list[object] = [*CONTRACTS, *SCOPES, *SPANS, *budgets]
    factors = torch.zeros(len(actions), len(names))
    starts = (0, len(CONTRACTS), len(CONTRACTS) + len(SCOPES))
    for row, action in enumerate(actions):
        factors[row, list(CONTRACTS).index(action.adapter)] = 1
        factors[row, starts[1] + SCOPES.index(action.scope)] = 1
        factors[row, starts[2] + SPANS.index(action.span)] = 1
        factors[row, len(names) - len(budgets) + budgets.index(action.rank_budget)] = 1
    return factors
