"""Tests of the artifacts of bank and codebook."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from bem.errors import ArtifactFormatError, ArtifactTamperedError, BaseMismatchError
from bem.online.artifact import (
    BANK_CARD,
    BANK_FORMAT,
    BANK_TENSORS,
    CODEBOOK_FORMAT,
    CODEBOOK_TENSORS,
    BankArtifact,
    BankCard,
    CodebookCard,
    read_bank,
    read_codebook,
    save_bank,
    save_codebook,
)
from bem.online.codebook import make_condition

from tests.support.tiny_bank import LAYERS, RANK, WIDTH, tiny_bank, tiny_codebook

DIGEST = "0" * 64
CARD = BankCard(
    base_name="tiny",
    base_digest=DIGEST,
    feature_layer=0,
    layers=list(LAYERS),
    kinds=["o_proj", "down_proj"],
    rank=RANK,
    scale=2.0,
    command="python -m x",
    data_digest="1" * 64,
    seed=3,
    families=["one", "two"],
    components=4,
)


def bank_artifact() -> BankArtifact:
    """Return a bank that no file holds yet."""
    book = tiny_codebook()
    table = torch.randn(2, WIDTH, generator=torch.Generator().manual_seed(0))
    return BankArtifact(CARD, tiny_bank(), table, table[0], book.whitening, book.unrelated)


def stored(folder: Path) -> BankArtifact:
    """Return a bank that was written and read back."""
    save_bank(folder / "bank", bank_artifact())
    return read_bank(folder / "bank", base_digest=DIGEST)


def codebook_card(artifact: BankArtifact, version: int = 1, parent: str = "") -> CodebookCard:
    """Return the card of a codebook version."""
    return CodebookCard(
        base_name="tiny",
        base_digest=DIGEST,
        feature_layer=0,
        command="online",
        data_digest="2" * 64,
        seed=0,
        version=version,
        parent=parent,
        bank=artifact.card.sha256,
    )


def test_bank_survives_its_files(tmp_path: Path) -> None:
    """Factors, codes, whitening and calibration keys come back bit for bit."""
    made, again = bank_artifact(), stored(tmp_path)

    assert again.card.families == ["one", "two"]
    for path, (a, b) in made.bank.factors.items():
        assert a.equal(again.bank.factors[path][0])
        assert b.equal(again.bank.factors[path][1])
    assert again.table.equal(made.table)
    assert again.start.equal(made.start)
    assert again.unrelated.equal(made.unrelated)
    assert again.whitening.axes.equal(made.whitening.axes)
    assert again.empty_codebook().match(torch.zeros(32)) is None


def test_codebook_version_is_restored_bit_for_bit(tmp_path: Path) -> None:
    """Codes, radii, counts and lineage come back, and what prompts meet is the same."""
    artifact = stored(tmp_path)
    keys = 3 + 0.2 * torch.randn(20, 4, generator=torch.Generator().manual_seed(2))
    condition = replace(make_condition("c", keys, artifact.start), events=32, users=9)
    book = artifact.empty_codebook().with_condition(condition)
    first = save_codebook(tmp_path / "1", codebook_card(artifact), artifact.empty_codebook())
    save_codebook(tmp_path / "2", codebook_card(artifact, 2, first.sha256), book)
    again, card = read_codebook(tmp_path / "2", artifact)

    assert (card.version, card.parent) == (2, first.sha256)
    assert card.conditions == [{"name": "c", "events": 32, "users": 9}]
    assert again["c"].code.equal(book["c"].code)
    assert again["c"].radius == book["c"].radius
    assert again["c"].scale == book["c"].scale
    assert read_codebook(tmp_path / "1", artifact)[0].conditions == ()


def test_version_is_never_overwritten(tmp_path: Path) -> None:
    """A second codebook needs a folder of its own."""
    artifact = stored(tmp_path)
    save_codebook(tmp_path / "1", codebook_card(artifact), artifact.empty_codebook())
    with pytest.raises(ArtifactFormatError, match="versions are immutable"):
        save_codebook(tmp_path / "1", codebook_card(artifact), artifact.empty_codebook())


def test_other_base_other_bank_and_changed_bytes_are_refused(tmp_path: Path) -> None:
    """Each is an error of its own."""
    artifact = stored(tmp_path)
    with pytest.raises(BaseMismatchError, match="trained for base"):
        read_bank(tmp_path / "bank", base_digest="f" * 64)
    save_codebook(
        tmp_path / "1",
        replace(codebook_card(artifact), bank="e" * 64),
        artifact.empty_codebook(),
    )
    with pytest.raises(BaseMismatchError, match="learned with bank eeee"):
        read_codebook(tmp_path / "1", artifact)
    save_codebook(tmp_path / "2", codebook_card(artifact), artifact.empty_codebook())
    for file in (tmp_path / "2" / CODEBOOK_TENSORS, tmp_path / "bank" / BANK_TENSORS):
        file.write_bytes(file.read_bytes()[:-1] + b"\x20\x20")
    with pytest.raises(ArtifactTamperedError):
        read_codebook(tmp_path / "2", artifact)
    with pytest.raises(ArtifactTamperedError):
        read_bank(tmp_path / "bank", base_digest=DIGEST)
    card = tmp_path / "bank" / BANK_CARD
    card.write_text(card.read_text().replace('"seed": 3', '"seed": 4'))
    with pytest.raises(ArtifactTamperedError, match="was edited"):
        read_bank(tmp_path / "bank", base_digest=DIGEST)


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("codes.start", torch.zeros(3), r"codes.start has the shape \[3\]"),
        ("codes.table", torch.zeros(1, WIDTH), r"the card needs \[2, 16\]"),
        ("keys.unrelated", torch.zeros(5, 3), "keys.unrelated"),
        ("more", torch.zeros(1), r"unknown \['more'\]"),
        ("model.layers.2.mlp.down_proj.A", torch.zeros(3, 64), "down_proj.A"),
    ],
)
def test_tensor_that_does_not_fit_the_card_is_named(
    tmp_path: Path, name: str, tensor: torch.Tensor, message: str
) -> None:
    """The bank's reader checks each shape."""
    card = save_bank(tmp_path, bank_artifact())
    tensors = BANK_FORMAT.load_tensors(tmp_path)
    BANK_FORMAT.write(tmp_path, card, {**tensors, name: tensor})
    with pytest.raises(ArtifactFormatError, match=message):
        read_bank(tmp_path, base_digest=DIGEST)


@pytest.mark.parametrize("families", [["a", "a"], [], ["x" * 300]])
def test_card_out_of_its_schema_is_refused(tmp_path: Path, families: list[str]) -> None:
    """Families have distinct names."""
    with pytest.raises(ArtifactFormatError, match="families"):
        save_bank(tmp_path, replace(bank_artifact(), card=replace(CARD, families=families)))


@pytest.mark.parametrize(
    "conditions",
    [
        [{"name": "c"}],
        [{"name": "", "events": 0, "users": 0}],
        ["c"],
        [{"name": "c", "events": -1, "users": 0}],
    ],
)
def test_condition_out_of_its_schema_is_refused(tmp_path: Path, conditions: list[Any]) -> None:
    """A condition on a card has a name and two counts."""
    card = replace(
        codebook_card(bank_artifact()),
        bank="e" * 64,
        tensors_sha256="3" * 64,
        conditions=conditions,
    )
    with pytest.raises(ArtifactFormatError, match="conditions"):
        CODEBOOK_FORMAT.write_card(tmp_path, card)
