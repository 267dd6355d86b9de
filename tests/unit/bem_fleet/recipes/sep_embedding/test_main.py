"""The recipe trains an embedding head beside a front and scores it beside other embeddings."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from bem.adapters.bank import AdapterBank
from bem.adapters.site import default_layers
from bem.engine import LLMEngine
from bem.sep.embedding_head import load_head
from bem.sep.front_artifact import save_front
from bem.sep.surface_front import fold_front, fresh_factors
from bem.testing import tiny_backbone
from bem.training.decoder import TrainingDecoder
from bem_fleet.recipes.sep_embedding import __main__ as recipe
from bem_fleet.recipes.sep_embedding.retrieval_pairs import RetrievalPairs

from tests.unit.bem.sep.test_front_artifact import CARD

WORDS = ("ship", "north", "river", "mountain", "harbour", "winter", "garden", "window")
PAIRS = RetrievalPairs(
    tuple(f"a passage about the {word}" for word in WORDS),
    tuple(f"what is the {word}" for word in WORDS),
    tuple(range(len(WORDS))),
    (tuple(f"waht is teh {word}" for word in WORDS),),
)


def test_states_are_pooled_as_the_engine_pools_them() -> None:
    """With the front as factors they are those of the engine with the folded front."""
    backbone = tiny_backbone()
    factors = fresh_factors(backbone, range(1), 4, seed=0)
    for _, b in factors.values():
        torch.nn.init.ones_(b)
    decoder = TrainingDecoder(backbone, compute_dtype=torch.float32)
    wanted = recipe.StatePool(backbone, decoder, (factors, 2.0))(["hello there", "hi"])
    first, feature = default_layers(4)
    folded = fold_front(tiny_backbone(), factors, 2.0, version="1")
    bank = AdapterBank(folded, layers=range(first, 4), rank=4, slots=1, feature_layer=feature)
    embedder = LLMEngine(folded, bank).core.embedder
    with torch.inference_mode():
        pooled = embedder.pooled([folded.tokenizer.encode(one) for one in ("hello there", "hi")])

    assert torch.allclose(wanted, pooled, atol=1e-4)


@pytest.mark.slow
def test_head_is_trained_scored_and_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All systems have scores; the head names its front."""
    backbone = tiny_backbone()
    card = replace(CARD, base_digest=backbone.digest)
    front = save_front(tmp_path, card, fresh_factors(backbone, range(2), 4, seed=0))
    monkeypatch.setattr(recipe, "load_backbone", lambda **_: tiny_backbone())
    monkeypatch.setattr(recipe, "retrieval_pairs", lambda *_, **__: PAIRS)
    recipe.main(["--out", str(tmp_path), "--steps", "5", "--dimensions", "8"])
    report = json.loads(capsys.readouterr().out)
    head, written = load_head(tmp_path, base_digest=backbone.digest)

    systems = {"head", "whitening", "means with the front", "means without the front", "MiniLM"}
    assert systems <= set(report)
    assert all(0 < report[name]["typed_mrr"] <= 1 for name in systems)
    assert report["MiniLM"]["clean_recall_at_1"] == 1
    assert (head.dimensions, written.front, written.metrics) == (8, front.sha256, report)
