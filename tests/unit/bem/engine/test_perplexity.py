"""Tests of the perplexity of weight formats on the packaged text."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from bem.backbone import WeightFormat
from bem.engine.perplexity import TEXT, TOKENS, WINDOW, arithmetic, text_nats
from bem.testing import tiny_backbone
from torch.nn.functional import cross_entropy


def test_float32_loss_is_that_of_transformers() -> None:
    """Each window of 256 tokens is scored with a context of its own."""
    backbone = tiny_backbone()
    ids = backbone.tokenizer.encode(TEXT.read_text(), add_special_tokens=False)[:TOKENS]
    windows = torch.tensor(ids).view(-1, WINDOW)
    with torch.inference_mode():
        logits = backbone.model(windows).logits[:, :-1].flatten(0, 1)
    expected = float(cross_entropy(logits, windows[:, 1:].flatten()))

    assert text_nats(backbone) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("kind", ["int8", "bf16"])
def test_measuring_leaves_the_weights_to_the_engine(kind: WeightFormat) -> None:
    """Another format is near float32, and measuring it takes nothing out of the model."""
    backbone = tiny_backbone()
    before = {name: one.clone() for name, one in backbone.model.named_parameters()}
    exact = text_nats(backbone)
    other = text_nats(replace(backbone, weight_format=kind))

    assert other != exact
    assert other == pytest.approx(exact, rel=0.02)
    after = dict(backbone.model.named_parameters())
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert text_nats(backbone) == exact


def test_results_are_kept_by_model_and_format(tmp_path: Path) -> None:
    """A kept result is used for the same model and format, and for no other."""
    memo = tmp_path / "models" / "perplexity.json"
    backbone = tiny_backbone()
    measured = text_nats(backbone, memo)
    known = json.loads(memo.read_text())
    memo.write_text(json.dumps(dict.fromkeys(known, 1.5)))

    assert list(known.values()) == [measured]
    assert text_nats(backbone, memo) == 1.5
    assert text_nats(tiny_backbone(seed=1), memo) != 1.5
    assert text_nats(replace(backbone, weight_format="bf16"), memo) != 1.5
    assert len(json.loads(memo.read_text())) == 3


@pytest.mark.parametrize("content", ["", "[1]", '{"a": "x"}'])
def test_a_malformed_file_is_measured_again(tmp_path: Path, content: str) -> None:
    """A file that another program wrote costs a measurement, and is replaced."""
    memo = tmp_path / "perplexity.json"
    memo.write_text(content)

    assert text_nats(tiny_backbone(), memo) == text_nats(tiny_backbone())
    assert len(json.loads(memo.read_text())) == 1


def test_a_folder_that_cannot_be_written_costs_a_measurement(tmp_path: Path) -> None:
    """A read-only image measures at every start instead of failing."""
    (tmp_path / "file").write_text("")

    assert text_nats(tiny_backbone(), tmp_path / "file" / "memo.json") > 0


def test_kernels_are_part_of_the_key() -> None:
    """A result of one implementation says nothing about another one."""
    backbone = tiny_backbone()
    names = {arithmetic(replace(backbone, weight_format=one)) for one in ("fp32", "bf16", "int8")}

    assert len(names) == 3
    assert torch.__version__ in arithmetic(replace(backbone, weight_format="int8"))
