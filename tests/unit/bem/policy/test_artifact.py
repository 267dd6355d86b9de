"""Tests of policy artifacts."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from bem.errors import ArtifactFormatError, ArtifactTamperedError, BaseMismatchError
from bem.policy.artifact import CARD_FILE, TENSORS_FILE, read_policy, save_policy
from safetensors.torch import load_file, save_file

from tests.support.policies import tiny_policy

DIGEST = "0" * 64


def test_a_policy_is_read_back_as_it_was(tmp_path: Path) -> None:
    """Networks, projection, reference states and the divergence of updates survive."""
    artifact = tiny_policy()
    card = save_policy(tmp_path / "p", artifact)

    found = read_policy(tmp_path / "p", base_digest=DIGEST)

    assert found.card == card
    assert found.card.kl == [0.004]
    assert found.tree.plans == artifact.tree.plans
    states = torch.randn(5, artifact.policy.inner.in_features)
    masks = artifact.tree.masks[:5]
    assert torch.equal(found.policy(states, masks), artifact.policy(states, masks))
    assert torch.equal(found.values(states), artifact.values(states))
    assert torch.equal(found.reference, artifact.reference)
    assert torch.equal(found.projection.axes, artifact.projection.axes)


def test_an_edited_card_is_refused(tmp_path: Path) -> None:
    """The card's hash covers its version."""
    save_policy(tmp_path / "p", tiny_policy())
    path = tmp_path / "p" / CARD_FILE
    card = json.loads(path.read_text())
    card["version"] = 7
    path.write_text(json.dumps(card))

    with pytest.raises(ArtifactTamperedError):
        read_policy(tmp_path / "p", base_digest=DIGEST)


def test_tampered_weights_are_refused(tmp_path: Path) -> None:
    """The card's hash covers the tensors."""
    save_policy(tmp_path / "p", tiny_policy())
    path = tmp_path / "p" / TENSORS_FILE
    tensors = load_file(path)
    tensors["policy.head.bias"] += 1
    save_file(tensors, path)

    with pytest.raises(ArtifactTamperedError):
        read_policy(tmp_path / "p", base_digest=DIGEST)


def test_another_base_is_refused(tmp_path: Path) -> None:
    """The features belong to one base model."""
    save_policy(tmp_path / "p", tiny_policy())

    with pytest.raises(BaseMismatchError):
        read_policy(tmp_path / "p", base_digest="1" * 64)


def test_weights_of_another_width_are_refused(tmp_path: Path) -> None:
    """A card that states another hidden width does not fit its tensors."""
    artifact = tiny_policy()
    save_policy(tmp_path / "p", replace(artifact, card=replace(artifact.card, hidden=9)))

    with pytest.raises(ArtifactFormatError, match="PolicyNetwork"):
        read_policy(tmp_path / "p", base_digest=DIGEST)


@pytest.mark.parametrize("actions", [[], ["retrieve/passages/suffix/0"], ["x"], "general"])
def test_a_card_without_a_plan_is_refused(tmp_path: Path, actions: list[str]) -> None:
    """The actions on a card make at least one plan."""
    artifact = tiny_policy()

    with pytest.raises(ArtifactFormatError, match="actions"):
        save_policy(tmp_path, replace(artifact, card=replace(artifact.card, actions=actions)))
