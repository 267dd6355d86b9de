"""Policy artifacts: networks, feature projection and reference states, bound to a card."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bem import card_schema
from bem.artifacts import ArtifactFormat, SealedCard, strip_prefix
from bem.errors import ArtifactFormatError, InvalidRequestError, InvalidSettingError
from bem.policy.actions import HORIZON, parse_action
from bem.policy.features import FeatureProjection
from bem.policy.network import ActionValueNetwork, PolicyNetwork
from bem.policy.plan_tree import PlanTree

TENSORS_FILE = "policy.safetensors"
CARD_FILE = "policy.json"
POLICY_PREFIX, VALUES_PREFIX = "policy.", "values."
REFERENCE = "reference.features"
PROJECTION_MEAN, PROJECTION_AXES = "projection.mean", "projection.axes"
_MAX_WIDTH, _MAX_ACTIONS = 4096, 64


def _action_list() -> card_schema.Metadata:
    def check(value: Any) -> str:
        if not isinstance(value, list) or not 1 <= len(value) <= _MAX_ACTIONS:
            return f"is no list of 1 to {_MAX_ACTIONS} actions"
        try:
            PlanTree([parse_action(str(one)) for one in value])
        except (InvalidRequestError, InvalidSettingError) as err:
            return str(err)
        return ""

    return {"check": check}


@dataclass(frozen=True, kw_only=True)
class PolicyCard(SealedCard):
    """Card of a policy.

    Attributes:
        version: Number of the version, 1 for the first one.
        parent: Hash of the card of the version that it was updated from; empty for the first one.
        actions: Actions in the order of the policy's outputs.
        horizon: Most steps of a plan.
        hidden: Width of the hidden layers.
        kl: Measured divergence of each update of its training, nats.
    """

    version: int = field(metadata=card_schema.integer(1, 2**31 - 1))
    parent: str = field(default="", metadata=card_schema.text(64))
    actions: list[str] = field(metadata=_action_list())
    horizon: int = field(default=HORIZON, metadata=card_schema.integer(1, HORIZON))
    hidden: int = field(default=64, metadata=card_schema.integer(1, _MAX_WIDTH))
    kl: list[float] = field(default_factory=list)


POLICY_FORMAT = ArtifactFormat(PolicyCard, CARD_FILE, TENSORS_FILE)


@dataclass(frozen=True, eq=False)
class PolicyArtifact:
    """A policy whose files were read and verified, or that was trained here.

    Attributes:
        card: Card of the policy.
        tree: Plans of its actions.
        policy: Policy network.
        values: Action-value network.
        projection: Projection of the prompt's pooled state.
        reference: ``[M, F]`` item features on which the distance of an update is measured.
    """

    card: PolicyCard
    tree: PlanTree
    policy: PolicyNetwork
    values: ActionValueNetwork
    projection: FeatureProjection
    reference: Tensor


def save_policy(folder: Path, artifact: PolicyArtifact) -> PolicyCard:
    """Write a policy and return its card with its hashes.

    Args:
        folder: Created if missing; an older policy in it is replaced.
        artifact: Policy to write.

    Raises:
        ArtifactFormatError: A field of the card is out of its range.
    """
    tensors = {
        PROJECTION_MEAN: artifact.projection.mean,
        PROJECTION_AXES: artifact.projection.axes,
        REFERENCE: artifact.reference,
    }
    for prefix, network in ((POLICY_PREFIX, artifact.policy), (VALUES_PREFIX, artifact.values)):
        tensors |= {f"{prefix}{name}": value for name, value in network.state_dict().items()}
    return POLICY_FORMAT.write(
        folder, artifact.card, {name: one.detach().float() for name, one in tensors.items()}
    )


def read_policy(folder: Path, *, base_digest: str) -> PolicyArtifact:
    """Read a policy and verify all that its card states.

    Args:
        folder: Folder of the artifact.
        base_digest: SHA-256 of the base model that is loaded.

    Raises:
        ArtifactFormatError: A file is missing or malformed, or a tensor does not fit the card.
        ArtifactTamperedError: Card or tensors do not have the hash that the card states.
        BaseMismatchError: The policy was trained for another base model.
    """
    card = POLICY_FORMAT.read_card(folder)
    tensors = POLICY_FORMAT.read_tensors(folder, card, label="the policy", base_digest=base_digest)
    label = f"{folder.name}/{TENSORS_FILE}"
    for name in (PROJECTION_MEAN, PROJECTION_AXES, REFERENCE):
        if name not in tensors:
            raise ArtifactFormatError(f"{label} has no tensor {name}; train the policy again")
    tree = PlanTree([parse_action(one) for one in card.actions], card.horizon)
    reference = tensors[REFERENCE].float()
    if reference.dim() != 2 or not 1 <= reference.shape[1] <= _MAX_WIDTH or not len(reference):
        raise ArtifactFormatError(
            f"{label}: {REFERENCE} has the shape {tuple(reference.shape)}; [states, width] is "
            "needed; train the policy again"
        )
    width = reference.shape[1] + tree.features.shape[1]
    policy = PolicyNetwork(width, tree.factors, card.hidden)
    values = ActionValueNetwork(width, len(tree.actions), card.hidden)
    _load(label, policy, strip_prefix(tensors, POLICY_PREFIX))
    _load(label, values, strip_prefix(tensors, VALUES_PREFIX))
    try:
        projection = FeatureProjection(tensors[PROJECTION_MEAN], tensors[PROJECTION_AXES])
    except InvalidSettingError as err:
        raise ArtifactFormatError(f"{label}: {err}; train the policy again") from err
    if projection.width != reference.shape[1]:
        raise ArtifactFormatError(
            f"{label}: the projection makes {projection.width} features and {REFERENCE} has "
            f"{reference.shape[1]}; train the policy again"
        )
    return PolicyArtifact(card, tree, policy, values, projection, reference)


def _load(label: str, network: torch.nn.Module, tensors: dict[str, Tensor]) -> None:
    wanted = {name: tuple(one.shape) for name, one in network.state_dict().items()}
    found = {name: tuple(one.shape) for name, one in tensors.items()}
    if wanted != found:
        raise ArtifactFormatError(
            f"{label}: {type(network).__name__} needs {wanted}, the file has {found}; train the "
            "policy again"
        )
    network.load_state_dict({name: one.float() for name, one in tensors.items()})
    network.requires_grad_(requires_grad=False)
