"""Tests of artifact folders: what adapter and safety artifacts share."""

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from bem.adapters.site import TARGET_MODULES
from bem.artifacts import (
    TARGET_KINDS,
    ArtifactCard,
    ArtifactFormat,
    artifact_version,
    strip_prefix,
)
from bem.digests import file_digest
from bem.errors import ArtifactFormatError, ArtifactTamperedError, BaseMismatchError


@dataclass(frozen=True, kw_only=True)
class Card(ArtifactCard):
    """Card with one field of its own."""

    colour: str


FORMAT = ArtifactFormat(Card, "card.json", "weights.safetensors")
CARD = Card(
    base_name="tiny",
    base_digest="b" * 64,
    layers=[1],
    kinds=["o_proj"],
    rank=2,
    scale=1.0,
    feature_layer=0,
    command="test",
    data_digest="0",
    seed=0,
    colour="red",
)
TENSORS = {"a.x": torch.ones(2, 3), "b.y": torch.zeros(1)}


def test_round_trip_keeps_card_and_tensors(tmp_path: Path) -> None:
    """The written card has the hash of the tensors, and no partial file stays behind."""
    written = FORMAT.write(tmp_path / "new", CARD, TENSORS)
    found = FORMAT.read_tensors(
        tmp_path / "new", FORMAT.read_card(tmp_path / "new"), label="x", base_digest="b" * 64
    )

    assert FORMAT.read_card(tmp_path / "new") == written
    assert len(written.tensors_sha256) == 64
    assert torch.equal(found["a.x"], TENSORS["a.x"])
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [
        "card.json",
        "weights.safetensors",
    ]


def test_hash_and_base_are_verified(tmp_path: Path) -> None:
    """Foreign bases, changed tensors and missing files are separate errors."""
    card = FORMAT.write(tmp_path, CARD, TENSORS)
    with pytest.raises(BaseMismatchError, match=r"x was trained for base b+ \(tiny\)"):
        FORMAT.read_tensors(tmp_path, card, label="x", base_digest="c" * 64)
    FORMAT.write(tmp_path, CARD, {"a": torch.zeros(1)})
    with pytest.raises(ArtifactTamperedError, match="its card says"):
        FORMAT.read_tensors(tmp_path, card, label="x", base_digest="b" * 64)
    (tmp_path / "weights.safetensors").write_bytes(b"no")
    with pytest.raises(ArtifactFormatError, match="is not a safetensors file"):
        FORMAT.load_tensors(tmp_path)
    (tmp_path / "weights.safetensors").unlink()
    with pytest.raises(ArtifactFormatError, match=r"has no weights\.safetensors"):
        FORMAT.read_tensors(tmp_path, card, label="x", base_digest="b" * 64)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "is not JSON"),
        ("[]", "no JSON object"),
        ("{}", "missing .*colour"),
        ('{"size": 1}', "unknown .*size"),
    ],
)
def test_malformed_card_is_named(tmp_path: Path, text: str, problem: str) -> None:
    """The error names the file and the fields."""
    (tmp_path / "card.json").write_text(text)
    with pytest.raises(ArtifactFormatError, match=rf"card\.json.*{problem}"):
        FORMAT.read_card(tmp_path)


def test_version_covers_every_field_of_the_card(tmp_path: Path) -> None:
    """Another command or other tensors are another version; a reread card is not."""
    card = FORMAT.write(tmp_path, CARD, TENSORS)

    assert artifact_version(card) == artifact_version(FORMAT.read_card(tmp_path))
    assert artifact_version(replace(card, command="other")) != artifact_version(card)
    assert artifact_version(replace(card, tensors_sha256="0")) != artifact_version(card)


def test_stamp_changes_with_every_write(tmp_path: Path) -> None:
    """Rewriting equal content, or removing a file, is seen without hashing."""
    FORMAT.write(tmp_path, CARD, TENSORS)
    first = FORMAT.stamp(tmp_path)
    assert first == FORMAT.stamp(tmp_path)
    FORMAT.write(tmp_path, CARD, TENSORS)
    assert FORMAT.stamp(tmp_path) != first
    (tmp_path / "card.json").unlink()
    assert FORMAT.stamp(tmp_path)[0] == -1


def test_strip_prefix_selects_and_renames() -> None:
    """Other tensors are left out."""
    assert list(strip_prefix(TENSORS, "a.")) == ["x"]


@pytest.mark.parametrize("name", ["passage-qa/card.json", "safety/safety.json"])
def test_committed_artifacts_have_their_hash(name: str) -> None:
    """The cards of the repository state the hash of their tensors and a command that exists."""
    path = Path(__file__).resolve().parents[3] / "adapters" / name
    card = json.loads(path.read_text())
    tensors = next(path.parent.glob("*.safetensors"))
    module = card["command"].split()[2]

    assert card["tensors_sha256"] == file_digest(tensors)
    assert (path.parents[2] / "libs" / module.replace(".", "/") / "__main__.py").is_file()


@pytest.mark.parametrize(
    "change", [{"colour": "blue"}, {"scale": 2.0}, {"metrics": {"f1": 1.0}}, {"seed": 1}]
)
def test_edited_card_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    """The card's own hash covers every field, metrics included."""
    FORMAT.write(tmp_path, CARD, TENSORS)
    path = tmp_path / "card.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))

    with pytest.raises(ArtifactTamperedError, match="so it was edited"):
        FORMAT.read_card(tmp_path)


def test_links_and_devices_are_refused(tmp_path: Path) -> None:
    """A linked folder, card or tensor file and a pipe are not read."""
    card = FORMAT.write(tmp_path / "real", CARD, TENSORS)
    (tmp_path / "folder").symlink_to(tmp_path / "real")
    with pytest.raises(ArtifactFormatError, match="folder is a link"):
        FORMAT.read_card(tmp_path / "folder")
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / "card.json").symlink_to(tmp_path / "real" / "card.json")
    with pytest.raises(ArtifactFormatError, match=r"card\.json is a link"):
        FORMAT.read_card(linked)
    (linked / "weights.safetensors").symlink_to(tmp_path / "real" / "weights.safetensors")
    with pytest.raises(ArtifactFormatError, match=r"weights\.safetensors is a link"):
        FORMAT.read_tensors(linked, card, label="x", base_digest="b" * 64)
    (tmp_path / "real" / "card.json").unlink()
    os.mkfifo(tmp_path / "real" / "card.json")
    with pytest.raises(ArtifactFormatError, match="no regular file"):
        FORMAT.read_card(tmp_path / "real")
    (tmp_path / "real" / "card.json").unlink()
    (tmp_path / "real" / "card.json").mkdir()
    with pytest.raises(ArtifactFormatError, match="no regular file"):
        FORMAT.read_card(tmp_path / "real")


@pytest.mark.parametrize(
    "tensor",
    [
        torch.tensor([1.0, float("nan")]),
        torch.tensor([float("-inf")]),
        torch.tensor([-2e3]),
        torch.tensor([1, 2]),
        torch.tensor([1.0], dtype=torch.float64),
    ],
)
def test_weights_are_finite_and_of_moderate_size(tmp_path: Path, tensor: torch.Tensor) -> None:
    """Such a tensor could end in NaN logits; the error names it."""
    card = FORMAT.write(tmp_path, CARD, TENSORS | {"c.z": tensor})
    with pytest.raises(ArtifactFormatError, match=r"weights\.safetensors: c\.z"):
        FORMAT.read_tensors(tmp_path, card, label="x", base_digest="b" * 64)


def test_card_out_of_its_schema_is_not_written(tmp_path: Path) -> None:
    """Nothing is written, so that an older artifact stays whole."""
    FORMAT.write(tmp_path, CARD, TENSORS)
    with pytest.raises(ArtifactFormatError, match="scale: 100"):
        FORMAT.write(tmp_path, replace(CARD, scale=100.0), {"other": torch.ones(1)})

    assert set(FORMAT.load_tensors(tmp_path)) == set(TENSORS)


def test_kinds_are_those_of_the_sites() -> None:
    """A card may name the modules that can become sites, and no others."""
    assert set(TARGET_KINDS) == set(TARGET_MODULES)


@pytest.mark.parametrize(
    ("name", "fits"), [("value.center", True), ("keys.mean", True), ("a.x", False)]
)
def test_statistics_of_states_may_be_larger_than_weights(
    tmp_path: Path, name: str, fits: bool
) -> None:
    """States of Gemma 3 are in the thousands, and so is their mean; weights are not."""
    FORMAT.write(tmp_path / "new", CARD, {name: torch.full((2,), 2361.0)})
    card = FORMAT.read_card(tmp_path / "new")
    if fits:
        found = FORMAT.read_tensors(tmp_path / "new", card, label="x", base_digest="b" * 64)
        assert found[name][0] == 2361
        FORMAT.write(tmp_path / "new", CARD, {name: torch.full((2,), 2e6)})
        card = FORMAT.read_card(tmp_path / "new")
    with pytest.raises(ArtifactFormatError, match="largest magnitude"):
        FORMAT.read_tensors(tmp_path / "new", card, label="x", base_digest="b" * 64)
