"""Tests of the scorer without an engine's thread."""

from pathlib import Path

import pytest
import torch
from bem.engine import ScoreRequest
from bem.errors import AdapterNotFoundError, InvalidRequestError
from bem.testing import tiny_backbone

from tests.unit.bem.engine.engines import encode, make_engine, write_adapters


def test_scores_of_a_padded_batch_are_those_of_transformers(tmp_path: Path) -> None:
    """Texts of unequal length in one batch score as each alone."""
    scorer = make_engine(tiny_backbone(), write_adapters(tmp_path)).core.scorer
    texts = [encode("hello there"), encode("hi")]
    with torch.inference_mode():
        scores = scorer.score([ScoreRequest(ids[:1], ids[1:]) for ids in texts])
        for ids, values in zip(texts, scores, strict=True):
            logprobs = tiny_backbone().model(torch.tensor([ids])).logits[0].log_softmax(-1)
            expected = [float(logprobs[at, token]) for at, token in enumerate(ids[1:])]
            assert values == pytest.approx(expected, abs=1e-4)


def test_errors_leave_no_lease(tmp_path: Path) -> None:
    """Unknown adapters and empty targets are refused."""
    core = make_engine(tiny_backbone(), write_adapters(tmp_path)).core
    with pytest.raises(AdapterNotFoundError):
        core.scorer.score([ScoreRequest((1,), (2,), "nobody")])
    with pytest.raises(InvalidRequestError, match="each needs 1"):
        core.scorer.score([ScoreRequest((1,), (), "alpha")])

    assert core.binding.bank is not None
    assert core.binding.bank.leases() == 0
