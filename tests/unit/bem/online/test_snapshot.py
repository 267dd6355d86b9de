"""Tests of the learner's snapshot."""

import hashlib

import pytest
import torch
from bem.errors import DataFormatError
from bem.online.learner import OnlineLearner
from bem.online.snapshot import dump, load
from bem.testing import tiny_backbone
from bem.training.online.code_likelihood import DecoderLikelihood

from tests.support.tiny_bank import tiny_bank, tiny_codebook, tiny_feedback
from tests.unit.bem.online.test_learner import STATES, stream, tiny_learner

BANK = "b" * 64


def restored(content: bytes, bank: str = BANK) -> OnlineLearner:
    """Return a learner in another process's place: model and codebook are made anew."""
    model = DecoderLikelihood(tiny_backbone(), tiny_bank(), feature_layer=0)
    return load(content, model, tiny_codebook(), bank)


@pytest.mark.slow
def test_restored_learner_goes_on_with_the_same_bits() -> None:
    """Interrupted after two of four updates, it ends as the uninterrupted one does."""
    whole = tiny_learner()
    stream(whole, last=2)
    content = dump(whole, BANK)
    resumed = restored(content)
    assert dump(resumed, BANK) == content

    assert stream(resumed, 2, 4) == stream(whole, 2, 4)
    assert resumed.codebook["c"].code.equal(whole.codebook["c"].code)
    assert resumed.codebook["c"].radius == whole.codebook["c"].radius
    assert dump(resumed, BANK) == dump(whole, BANK)


def test_conditions_keep_their_own_states() -> None:
    """Two conditions come back with their codes, users and precisions."""
    learner = tiny_learner()
    learner.open_condition("d", -STATES)
    learner.learn(tiny_feedback(3, condition="d"))
    again = restored(dump(learner, BANK))

    assert [one.name for one in again.codebook.conditions] == ["c", "d"]
    assert again.users == learner.users
    assert again.penalties["d"].precision.equal(learner.penalties["d"].precision)
    assert again.codebook.match(-STATES[0]) is not None


def test_changed_and_foreign_snapshots_are_refused() -> None:
    """Each is named: changed bytes, another bank, no snapshot at all, and another content."""
    content = dump(tiny_learner(), BANK)
    with pytest.raises(DataFormatError, match="SHA-256"):
        restored(content[:-1] + b"\x01")
    with pytest.raises(DataFormatError, match="belongs to bank bbbb"):
        restored(content, "c" * 64)
    body = b"no tensors"
    with pytest.raises(DataFormatError, match="is no snapshot"):
        restored(hashlib.sha256(body).digest() + body)
    body = content[32:].replace(b"capacity", b"cupacity")
    with pytest.raises(DataFormatError, match="does not fit"):
        restored(hashlib.sha256(body).digest() + body)


def test_codes_are_kept_in_double_precision() -> None:
    """What is rounded for serving is not rounded for learning."""
    learner = tiny_learner()
    stream(learner, last=1)

    assert restored(dump(learner, BANK)).penalties["c"].center.dtype == torch.float64
