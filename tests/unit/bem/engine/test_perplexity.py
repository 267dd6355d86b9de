"""Tests of the perplexity of weight formats relative to float32."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from bem.backbone import WeightFormat
from bem.engine.decoder import Decoder
from bem.engine.perplexity import TEXT, TOKENS, WINDOW, arithmetic, perplexity_ratio
from bem.testing import tiny_backbone

from tests.support.begun_texts import begun_backbone


def test_float32_is_the_reference() -> None:
    """The ratio of float32 to itself is 1."""
    assert perplexity_ratio(tiny_backbone()) == 1.0


def test_ratio_is_that_of_transformers_distributions() -> None:
    """The divergence of bfloat16 from float32 is what transformers' own logits give."""
    backbone, half = tiny_backbone(), tiny_backbone()
    half.model.to(torch.bfloat16)
    ids = backbone.tokenizer.encode(TEXT.read_text(), add_special_tokens=False)[:TOKENS]
    windows = torch.tensor(ids).view(-1, WINDOW)
    with torch.inference_mode():
        p = backbone.model(windows).logits.log_softmax(-1)
        q = half.model(windows).logits.float().log_softmax(-1)
    expected = math.exp(float((p.exp() * (p - q)).sum(-1).mean()))

    measured = perplexity_ratio(replace(backbone, weight_format="bf16"))
    assert measured > 1.0
    assert measured - 1 == pytest.approx(expected - 1, rel=0.2)


def test_texts_begin_as_the_model_was_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each window of a model whose texts begin with a token begins with it, and none of another."""
    seen: list[torch.Tensor] = []
    run = Decoder.lower

    def record(decoder: Decoder, ids: torch.Tensor, *rest: Any, **options: Any) -> Any:
        seen.append(ids)
        return run(decoder, ids, *rest, **options)

    monkeypatch.setattr(Decoder, "lower", record)
    begun = begun_backbone()
    perplexity_ratio(begun)
    begin = begun.tokenizer.bos_token_id
    windows = {(int(ids[0, 0]), ids.shape[1]) for ids in seen}
    assert windows == {(begin, WINDOW)}
    seen.clear()
    perplexity_ratio(tiny_backbone())
    assert begin not in {int(ids[0, 0]) for ids in seen}


@pytest.mark.parametrize("kind", ["int8", "bf16"])
def test_measuring_leaves_the_weights_to_the_engine(kind: WeightFormat) -> None:
    """Measuring takes nothing out of the model, and gives the same again."""
    backbone = replace(tiny_backbone(), weight_format=kind)
    before = {name: one.clone() for name, one in backbone.model.named_parameters()}
    ratio = perplexity_ratio(backbone)
    after = dict(backbone.model.named_parameters())

    assert 1.0 < ratio < 1.1
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert perplexity_ratio(backbone) == ratio


def test_results_are_kept_by_model_and_format(tmp_path: Path) -> None:
    """A kept result is used for the same model and format, and for no other."""
    memo = tmp_path / "models" / "perplexity.json"
    backbone = replace(tiny_backbone(), weight_format="int8")
    measured = perplexity_ratio(backbone, memo)
    known = json.loads(memo.read_text())
    memo.write_text(json.dumps(dict.fromkeys(known, 1.5)))

    assert list(known.values()) == [measured]
    assert perplexity_ratio(backbone, memo) == 1.5
    assert perplexity_ratio(replace(tiny_backbone(seed=1), weight_format="int8"), memo) != 1.5
    assert perplexity_ratio(replace(backbone, weight_format="bf16"), memo) != 1.5
    assert len(json.loads(memo.read_text())) == 3


@pytest.mark.parametrize("content", ["", "[1]", '{"a": "x"}'])
def test_a_malformed_file_is_measured_again(tmp_path: Path, content: str) -> None:
    """A file that another program wrote costs a measurement, and is replaced."""
    memo = tmp_path / "perplexity.json"
    memo.write_text(content)

    assert perplexity_ratio(tiny_backbone(), memo) == 1.0
    assert len(json.loads(memo.read_text())) == 1


def test_a_folder_that_cannot_be_written_costs_a_measurement(tmp_path: Path) -> None:
    """A read-only image measures at every start instead of failing."""
    (tmp_path / "file").write_text("")

    assert perplexity_ratio(tiny_backbone(), tmp_path / "file" / "memo.json") == 1.0


def test_kernels_are_part_of_the_key() -> None:
    """A result of one implementation says nothing about another one."""
    backbone = tiny_backbone()
    names = {arithmetic(replace(backbone, weight_format=one)) for one in ("fp32", "bf16", "int8")}

    assert len(names) == 3
    assert torch.__version__ in arithmetic(replace(backbone, weight_format="int8"))
