"""Tiny random models of transformers' architectures, as backbones and as folders."""

from pathlib import Path
from typing import Any

import torch
from bem.backbone import Backbone, freeze
from bem.testing import tiny_backbone
from transformers import AutoConfig, AutoModelForCausalLM

SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.3,
    "bos_token_id": None,
    "pad_token_id": None,
}


def tiny_config(model_type: str, **changes: Any) -> Any:
    """Return the configuration of a tiny model with the vocabulary of the byte tokenizer."""
    tokenizer = tiny_backbone().tokenizer
    own = {"vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id}
    return AutoConfig.for_model(model_type, **(SMALL | own | changes))


def tiny_model(model_type: str, **changes: Any) -> Any:
    """Return a tiny model in which every weight, gain and bias is random."""
    torch.manual_seed(11)
    model = AutoModelForCausalLM.from_config(tiny_config(model_type, **changes))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                added = name.endswith("bias") or model_type.startswith("gemma")
                parameter.normal_(0 if added else 1, 0.3)
    return model.eval()


def backbone_of(model: Any, name: str = "tiny") -> Backbone:
    """Return a model as a backbone, whatever its architecture is."""
    return freeze(model, tiny_backbone().tokenizer, name=name, digest="0" * 64)


def save_folder(folder: Path, model: Any) -> Path:
    """Save a model and the byte tokenizer in Hugging Face format."""
    model.save_pretrained(folder)
    tiny_backbone().tokenizer.save_pretrained(folder)
    return folder
