"""Tiny model whose tokenizer begins each text with a token, as Gemma's and Llama's do."""

from dataclasses import replace

from bem.backbone import Backbone
from bem.testing import tiny_backbone
from tokenizers import processors

BEGIN = "<|im_start|>"


def begun_backbone() -> Backbone:
    """Return the tiny base model with a tokenizer that begins texts with ``BEGIN``."""
    backbone = tiny_backbone()
    tokenizer = backbone.tokenizer
    begin = tokenizer.convert_tokens_to_ids(BEGIN)
    tokenizer.bos_token = BEGIN
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BEGIN} $A", special_tokens=[(BEGIN, begin)]
    )
    return replace(backbone, digest="1" * 64)
