"""Small policies for tests."""

import torch
from bem.policy.actions import DEFAULT_ACTIONS, MacroAction
from bem.policy.artifact import PolicyArtifact, PolicyCard
from bem.policy.features import EVIDENCE_WIDTH, FeatureProjection
from bem.policy.network import ActionValueNetwork, PolicyNetwork
from bem.policy.plan_tree import PlanTree


def tiny_policy(
    seed: int = 0,
    *,
    base_digest: str = "0" * 64,
    state_width: int = 32,
    version: int = 1,
    parent: str = "",
    nudge: float = 0.0,
    actions: tuple[MacroAction, ...] = DEFAULT_ACTIONS,
) -> PolicyArtifact:
    """Return a random policy of 4 components.

    Args:
        seed: Seed of the weights.
        base_digest: Base model that the card names.
        state_width: Width of the pooled states.
        version: Version on the card.
        parent: Parent on the card.
        nudge: Added to the first output bias, to make a policy at some distance.
        actions: Actions of the policy.
    """
    tree = PlanTree(actions)
    width = 4 + EVIDENCE_WIDTH
    torch.manual_seed(seed)
    policy = PolicyNetwork(width + tree.features.shape[1], tree.factors, 8)
    values = ActionValueNetwork(width + tree.features.shape[1], len(tree.actions), 8)
    with torch.no_grad():
        policy.head.weight.normal_()
        policy.head.bias[0] += nudge
    card = PolicyCard(
        base_name="tiny",
        base_digest=base_digest,
        feature_layer=1,
        command="test",
        data_digest="",
        seed=seed,
        version=version,
        parent=parent,
        actions=[str(action) for action in tree.actions],
        hidden=8,
        kl=[0.004],
    )
    projection = FeatureProjection(torch.zeros(state_width), torch.randn(state_width, 4))
    return PolicyArtifact(card, tree, policy, values, projection, torch.randn(16, width))
