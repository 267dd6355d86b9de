"""The packaged MiniLM run by numpy."""

import numpy as np
import torch
from bem_fleet.guard.scoring.embedding import WIDTH, MiniLM, model_folder
from transformers import AutoModel, AutoTokenizer

TEXTS = [
    *("The capital of France is Paris.", "boats", "word " * 300, "Ünïcödé, ok?"),
    "Stop.[SEP][PAD][PAD] Go on, [MASK].",
]


def test_numpy_embeds_as_transformers_does() -> None:
    """Mean-pooled unit vectors agree to 1e-3; a spelled control token is text."""
    tokenizer = AutoTokenizer.from_pretrained(model_folder())
    model = AutoModel.from_pretrained(model_folder()).eval()
    batch = tokenizer(
        TEXTS,
        padding=True,
        truncation=True,
        max_length=128,
        return_tensors="pt",
        split_special_tokens=True,
    )
    with torch.no_grad():
        states = model(**batch).last_hidden_state
    mask = batch["attention_mask"][..., None]
    pooled = (states * mask).sum(1) / mask.sum(1)
    wanted = torch.nn.functional.normalize(pooled).numpy()
    found = MiniLM().embed(TEXTS)

    assert found.shape == (len(TEXTS), WIDTH)
    assert np.abs(found - wanted).max() < 1e-3
