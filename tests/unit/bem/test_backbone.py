"""Tests of the frozen base model: locating, hashing, de-quantising and freezing."""

import json
from pathlib import Path

import pytest
import torch
from bem.backbone import PACKAGED_MODEL, freeze, load_backbone, locate_model
from bem.errors import BackboneNotFoundError, UnsupportedBackboneError
from bem.testing import tiny_backbone
from safetensors.torch import load, save_file
from transformers import GPT2Config

from tests.support.tiny_models import tiny_config


def save(folder: Path) -> None:
    """Save the tiny model in Hugging Face format."""
    backbone = tiny_backbone()
    backbone.model.save_pretrained(folder)
    backbone.tokenizer.save_pretrained(folder)


def test_folder_is_loaded_with_its_digest(tmp_path: Path) -> None:
    """A folder loads as it is; the digest covers its weights."""
    save(tmp_path / "tiny")
    backbone = load_backbone(str(tmp_path / "tiny"), cache=tmp_path / "cache")
    again = load_backbone(str(tmp_path / "tiny"), dtype="bfloat16", cache=tmp_path / "cache")
    ids = torch.arange(5, 12).unsqueeze(0)

    assert (backbone.name, backbone.context_tokens, len(backbone.layers)) == ("tiny", 512, 4)
    assert torch.equal(backbone.model(ids).logits, tiny_backbone().model(ids).logits)
    assert again.model.dtype == torch.bfloat16
    assert again.digest == backbone.digest
    weights = tmp_path / "tiny" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    assert load_backbone(str(tmp_path / "tiny"), cache=tmp_path).digest != backbone.digest


def test_frozen_model_has_no_gradients_and_all_end_tokens() -> None:
    """End tokens of model and tokenizer both end a turn."""
    tiny = tiny_backbone()
    tiny.model.train()
    tiny.model.requires_grad_(requires_grad=True)
    tiny.model.generation_config.eos_token_id = [3, 4]
    backbone = freeze(tiny.model, tiny.tokenizer, name="x", digest="d")

    assert not backbone.model.training
    assert not any(p.requires_grad for p in backbone.model.parameters())
    assert backbone.end_token_ids == {3, 4, tiny.tokenizer.eos_token_id}
    assert (backbone.weight_format, backbone.kernels) == ("fp32", None)


def test_packaged_model_is_located_and_missing_models_are_named(tmp_path: Path) -> None:
    """The error says what was looked for."""
    assert locate_model(PACKAGED_MODEL).suffix == ".gguf"
    with pytest.raises(BackboneNotFoundError, match="nowhere"):
        load_backbone("nowhere", cache=tmp_path)
    (tmp_path / "model.bin").write_text("")
    with pytest.raises(BackboneNotFoundError, match=r"neither a \.gguf file nor a model folder"):
        locate_model(str(tmp_path / "model.bin"))


def test_digest_of_a_file_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unchanged file is hashed once; a model that was de-quantised before is read again."""
    save(tmp_path / "saved")
    source = tmp_path / "tiny.gguf"
    source.write_bytes(b"weights")
    written = []

    def dequantise(path: Path, folder: Path) -> None:
        written.append(path)
        (tmp_path / "saved").rename(folder)

    monkeypatch.setattr("bem.backbone._check_gguf", lambda *_: None)  # these bytes are no model
    monkeypatch.setattr("bem.backbone._dequantise", dequantise)
    first = load_backbone(str(source), cache=tmp_path)
    (memo,) = [path for path in tmp_path.iterdir() if path.name == "digests.json"]
    known = json.loads(memo.read_text())
    memo.write_text(json.dumps(dict.fromkeys(known, first.digest)))
    second = load_backbone(str(source), cache=tmp_path)

    assert written == [source]
    assert first.digest == second.digest == next(iter(known.values()))
    assert (tmp_path / first.digest[:16] / "config.json").is_file()


def test_digest_covers_weights_configuration_and_tokenizer(tmp_path: Path) -> None:
    """Each file that outputs depend on changes the digest; a README does not."""
    save(tmp_path / "tiny")
    digests = {load_backbone(str(tmp_path / "tiny"), cache=tmp_path).digest}
    (tmp_path / "tiny" / "README.md").write_text("x")
    digests.add(load_backbone(str(tmp_path / "tiny"), cache=tmp_path).digest)
    assert len(digests) == 1
    for name in ("config.json", "generation_config.json", "tokenizer.json", "chat_template.jinja"):
        path = tmp_path / "tiny" / name
        path.write_text(path.read_text() + "\n")
        digests.add(load_backbone(str(tmp_path / "tiny"), cache=tmp_path).digest)

    assert len(digests) == 5


def test_unsupported_folder_is_refused_before_its_weights_are_read(tmp_path: Path) -> None:
    """The configuration alone decides; the weights here are no weights."""
    tiny_config("mixtral").save_pretrained(tmp_path / "experts")
    (tmp_path / "experts" / "model.safetensors").write_bytes(b"")
    with pytest.raises(UnsupportedBackboneError, match="experts has model_type 'mixtral'"):
        load_backbone(str(tmp_path / "experts"), cache=tmp_path)
    GPT2Config(n_layer=1, n_embd=8, n_head=2).save_pretrained(tmp_path / "gpt")
    (tmp_path / "gpt" / "model.safetensors").write_bytes(b"")
    with pytest.raises(UnsupportedBackboneError, match="gpt has model_type 'gpt2'"):
        load_backbone(str(tmp_path / "gpt"), cache=tmp_path)
    contradiction = {"model_type": "qwen3", "num_hidden_layers": 3, "layer_types": ["x"]}
    for content in ({"model_type": "of-next-year"}, contradiction):
        (tmp_path / "gpt" / "config.json").write_text(json.dumps(content))
        with pytest.raises(UnsupportedBackboneError, match=r"gpt/config\.json cannot be read"):
            load_backbone(str(tmp_path / "gpt"), cache=tmp_path)


def test_incomplete_folders_say_what_is_missing(tmp_path: Path) -> None:
    """Pickles, no weights, lost tensors, a truncated file, no tokenizer and a foreign one."""
    folder = tmp_path / "tiny"
    save(folder)

    def refused(named: str) -> None:
        with pytest.raises(BackboneNotFoundError, match=named):
            load_backbone(str(folder), cache=tmp_path)

    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    refused("weights as pickles.*save_pretrained")
    (folder / "pytorch_model.bin").unlink()
    refused(r"no \*\.safetensors")
    (folder / "model.safetensors").write_bytes(weights[:-100])
    refused("weights of tiny cannot be read")
    tensors = load(weights)
    lost = next(name for name in tensors if "layers.2.mlp.up_proj" in name)
    save_file({k: v for k, v in tensors.items() if k != lost}, folder / "model.safetensors")
    refused(f"lack 1 tensors.*{lost}")
    (folder / "model.safetensors").write_bytes(weights)
    tokenizer = tiny_backbone().tokenizer
    tokenizer.add_tokens(["<one-more>"])
    tokenizer.save_pretrained(folder)
    refused(r"has \d+ tokens, the model \d+")
    for path in folder.glob("*token*"):
        path.unlink()
    refused("no tokenizer")
