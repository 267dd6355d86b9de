"""Policy recipe: from outcome tables of training and development items to a policy artifact."""

from dataclasses import dataclass
from typing import Any

import torch
from bem.backbone import Backbone
from bem.policy.artifact import PolicyArtifact, PolicyCard
from bem.policy.features import fit_projection
from bem.policy.hysteresis import PlanHysteresis, flip_rate
from bem.policy.outcomes import OutcomeTable, node_states
from bem.policy.policy_training import PolicyTraining, TrainedPolicy, train_policy
from torch import Tensor

from bem_fleet.recipes.router.plan_outcomes import PlanOutcomes

COMPONENTS = 4
"""Principal components of the prompt's state. With more of them the policy learns which plan was
right for each training item: 64 give 0.81 of 1,000 training items, as the oracle does, and 0.45 of
300 development items, 4 give 0.73 and 0.56 (adapters/README.md)."""
REFERENCE_ITEMS = 256
"""Development items on which the distance of later updates is measured."""
SESSION_ITEMS = 10


@dataclass(frozen=True)
class PolicyProvenance:
    """Origin of a policy, for its card.

    Attributes:
        command: Command line that trains it.
        feature_layer: Decoder layer whose output is pooled.
        version: Number of the version.
        parent: Hash of the version that it continues; empty for none.
    """

    command: str
    feature_layer: int
    version: int = 1
    parent: str = ""


def make_policy(
    backbone: Backbone,
    train: PlanOutcomes,
    dev: PlanOutcomes,
    settings: PolicyTraining,
    provenance: PolicyProvenance,
) -> PolicyArtifact:
    """Train a policy and measure it on development items.

    Args:
        backbone: Base model that made the outcomes.
        train: Outcomes of the training items.
        dev: Outcomes of the development items.
        settings: Settings of cloning and TRPO.
        provenance: Origin, for the card.
    """
    projection = fit_projection(train.states, COMPONENTS)
    table, held = train.table(projection), dev.table(projection)
    trained = train_policy(table, settings)
    card = PolicyCard(
        base_name=backbone.name,
        base_digest=backbone.digest,
        feature_layer=provenance.feature_layer,
        command=provenance.command,
        data_digest=train.digest,
        seed=settings.seed,
        metrics=policy_metrics(trained, held, dev),
        version=provenance.version,
        parent=provenance.parent,
        actions=list(train.actions),
        horizon=train.horizon,
        hidden=settings.hidden,
        kl=[update.kl for update in trained.updates],
    )
    reference = held.features[:REFERENCE_ITEMS]
    return PolicyArtifact(card, table.tree, trained.policy, trained.values, projection, reference)


@torch.no_grad()
def greedy_plans(trained: TrainedPolicy, table: OutcomeTable) -> Tensor:
    """Return the most probable plan of each item, ``[N]``."""
    tree = table.tree
    log_probabilities = trained.policy(node_states(tree, table.features), tree.masks)
    return tree.plan_log_probabilities(log_probabilities).argmax(1)


def policy_metrics(
    trained: TrainedPolicy, table: OutcomeTable, outcomes: PlanOutcomes
) -> dict[str, Any]:
    """Return exact match, plan length, misses and flips of policy, oracle and best fixed plan.

    The best fixed plan is chosen on the same items, in its favour.
    """
    chosen = greedy_plans(trained, table)
    rows = torch.arange(len(chosen))
    lengths = torch.tensor([float(len(plan)) for plan in table.tree.plans])
    fixed = int(table.rewards.mean(0).argmax())
    oracle = table.rewards.argmax(1)
    return {
        "items": len(chosen),
        "exact_match": float(outcomes.exact[rows, chosen].mean()),
        "f1": float(outcomes.overlap[rows, chosen].mean()),
        "plan_length": float(lengths[chosen].mean()),
        "missed_share": float(outcomes.misses[rows, chosen].mean()),
        "oracle_exact_match": float(outcomes.exact[rows, oracle].mean()),
        "fixed_exact_match": float(outcomes.exact[:, fixed].mean()),
        "fixed_plan": " > ".join(str(action) for action in table.tree.plans[fixed]),
        "largest_kl": max((update.kl for update in trained.updates), default=0.0),
        "accepted_updates": sum(update.accepted for update in trained.updates),
        "flip_rate": session_flip_rate(chosen),
        "flip_rate_with_hysteresis": session_flip_rate(held_plans(trained, table, chosen)),
    }


@torch.no_grad()
def held_plans(trained: TrainedPolicy, table: OutcomeTable, chosen: Tensor) -> Tensor:
    """Return the plan of each item under hysteresis, ``[N]``, in sessions of ten items.

    Args:
        trained: Policy whose action values decide whether a switch pays.
        table: Outcomes of the items, in the order of the sessions.
        chosen: ``[N]`` plan that the policy prefers for each item.
    """
    tree = table.tree
    values = trained.values(node_states(tree, table.features))
    ends = [tree.path(place)[-1] for place in range(len(tree.plans))]
    rewards = torch.stack([values[:, node, action] for node, action in ends], 1)
    held = []
    for items in _sessions(len(chosen)):
        memory = PlanHysteresis()
        held += [memory.choose("s", int(chosen[i]), rewards[i].tolist()).plan for i in items]
    return torch.tensor(held)


def session_flip_rate(plans: Tensor) -> float:
    """Return the mean flip rate of plans ``[N]`` in sessions of ten items."""
    rates = [flip_rate([int(plans[item]) for item in items]) for items in _sessions(len(plans))]
    return sum(rates) / len(rates)


def _sessions(count: int) -> list[range]:
    return [
        range(start, min(start + SESSION_ITEMS, count)) for start in range(0, count, SESSION_ITEMS)
    ]
