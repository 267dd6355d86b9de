"""Trains the embedding head of mission sep: ``python -m bem_fleet.recipes.sep_embedding``.

It reads the front in the same folder and writes the head beside it. At the end it prints the
retrieval of development passages by clean and by badly typed questions, whose typing errors are the
held-out kinds: of the served head, of plain means with and without the front, and of the packaged
MiniLM.
"""

import argparse
import hashlib
import json
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from bem.adapters.site import default_layers
from bem.backbone import Backbone, load_backbone
from bem.prompt_encoding import PromptEncoder
from bem.sep.embedding_head import EmbeddingCard, EmbeddingHead, save_head
from bem.sep.front_artifact import load_front
from bem.sep.surface_front import FrontFactors
from bem.training.decoder import TrainingDecoder
from bem.training.sep.embedding_training import (
    HeadTraining,
    PooledPairs,
    reciprocal_ranks,
    train_head,
)
from bem.training.sep.front_trainer import front_code
from bem.training.strategy import retain_freed_memory
from torch import Tensor
from torch.nn import functional as f

from bem_fleet.guard.scoring.embedding import MiniLM
from bem_fleet.recipes.sep_embedding.retrieval_pairs import RetrievalPairs, retrieval_pairs
from bem_fleet.recipes.sep_front.surface_texts import HELD_OUT_TYPOS, TRAINING_TYPOS

PROG = "python -m bem_fleet.recipes.sep_embedding"
_ROW_TOKENS = 1024
Pool = Callable[[Sequence[str]], Tensor]


class StatePool:
    """Pools states as the engine does: the mean of states of length 1 behind the lower half.

    Args:
        backbone: Base model.
        decoder: Training decoder of it.
        front: Factors and scale of the front; None without one.
    """

    def __init__(
        self,
        backbone: Backbone,
        decoder: TrainingDecoder,
        front: tuple[FrontFactors, float] | None = None,
    ) -> None:
        self._encoder, self._decoder, self._front = (
            PromptEncoder(backbone.tokenizer),
            decoder,
            front,
        )
        self.layers = range(default_layers(decoder.depth)[0])

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Return the pooled states ``[N, F]`` of texts."""
        encoded = [self._encoder.encode_text(text) for text in texts]
        rows: list[list[list[int]]] = [[]]
        for ids in encoded:
            if rows[-1] and sum(map(len, rows[-1])) + len(ids) > _ROW_TOKENS:
                rows.append([])
            rows[-1].append(ids)
        return torch.cat([self._pooled(row) for row in rows])

    @torch.no_grad()
    def _pooled(self, row: Sequence[Sequence[int]]) -> Tensor:
        lengths = [len(ids) for ids in row]
        factors, code = None, None
        if self._front:
            factors, scale = self._front
            code = front_code(next(iter(factors.values()))[0].shape[0], scale)
        states = self._decoder.run_layers(
            self._decoder.embed(torch.tensor([token for ids in row for token in ids])),
            lengths,
            layers=self.layers,
            factors=factors,
            code=code,
        )
        directions = f.normalize(states.float(), dim=-1)
        return torch.stack([part.mean(0) for part in directions.split(lengths)])


def pool_pairs(pool: Pool, pairs: RetrievalPairs) -> PooledPairs:
    """Return the pooled states of pairs."""
    return PooledPairs(
        passages=pool(pairs.passages),
        questions=pool(pairs.questions),
        typed=torch.stack([pool(questions) for questions in pairs.typed]),
        owners=torch.tensor(pairs.owners),
    )


def minilm_embeddings(texts: Sequence[str]) -> Tensor:
    """Return the packaged MiniLM's embeddings of texts, ``[N, 384]``."""
    return torch.from_numpy(MiniLM().embed(texts)).float()


def retrieval_scores(pooled: PooledPairs, head: EmbeddingHead | None) -> dict[str, float]:
    """Return recall at 1 and mean reciprocal rank, of clean and of badly typed questions.

    Args:
        pooled: States, or embeddings if there is no head.
        head: Map of the states; None leaves them as they are.
    """
    embed = head or (lambda states: states)
    passages = embed(pooled.passages)
    forms = {"clean": pooled.questions[None], "typed": pooled.typed}
    scores = {}
    for name, kinds in forms.items():
        ranks = torch.cat([reciprocal_ranks(embed(one), passages, pooled.owners) for one in kinds])
        scores[f"{name}_recall_at_1"] = round((ranks == 1).float().mean().item(), 4)
        scores[f"{name}_mrr"] = round(ranks.mean().item(), 4)
    return scores


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=PROG, description=__doc__)
    parser.add_argument(
        "--out", type=Path, default=Path("adapters/sep"), help="folder of the front"
    )
    parser.add_argument("--cache", type=Path, default=Path(".cache"))
    parser.add_argument("--limit", type=int, default=240, help="training questions")
    parser.add_argument("--steps", type=int, default=HeadTraining.steps)
    parser.add_argument("--dimensions", type=int, default=HeadTraining.dimensions)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train the head, evaluate it and write its artifact.

    Args:
        arguments: Arguments without the program's name; None takes those of the process.
    """
    options = _parse(arguments)
    retain_freed_memory()
    backbone = load_backbone(cache=options.cache / "models")
    decoder = TrainingDecoder(backbone, compute_dtype=torch.float32)
    factors, front = load_front(options.out, base_digest=backbone.digest)
    pool = StatePool(backbone, decoder, (factors, front.scale))
    training = retrieval_pairs("train", TRAINING_TYPOS, limit=options.limit, seed=options.seed)
    config = HeadTraining(dimensions=options.dimensions, steps=options.steps, seed=options.seed)
    states = pool_pairs(pool, training)
    head = train_head(states, config)
    dev = retrieval_pairs("dev", HELD_OUT_TYPOS, seed=options.seed)
    served, plain = pool_pairs(pool, dev), pool_pairs(StatePool(backbone, decoder), dev)
    report = {
        "passages": len(dev.passages),
        "questions": len(dev.questions),
        "head": retrieval_scores(served, head),
        "whitening": retrieval_scores(served, train_head(states, replace(config, steps=0))),
        "means with the front": retrieval_scores(served, None),
        "means without the front": retrieval_scores(plain, None),
        "MiniLM": retrieval_scores(pool_pairs(minilm_embeddings, dev), None),
    }
    card = EmbeddingCard(
        base_name=backbone.name,
        base_digest=backbone.digest,
        feature_layer=len(pool.layers),
        command=shlex.join([*PROG.split(), *sys.argv[1:]]),
        data_digest=hashlib.sha256(repr(training).encode()).hexdigest(),
        seed=options.seed,
        width=decoder.width,
        dimensions=head.dimensions,
        front=front.sha256,
        metrics=report,
    )
    save_head(options.out, card, head)
    sys.stdout.write(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
