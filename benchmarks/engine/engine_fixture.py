"""The engine under measure: the real model, its decoder, its worker, random adapters."""

import queue
from collections.abc import Sequence
from pathlib import Path

import torch
from bem.adapters.bank import AdapterBank
from bem.adapters.site import BemSite
from bem.backbone import Backbone, load_backbone
from bem.engine import GenerationRequest, LLMEngine, OutputDelta, Sampling
from bem.engine.decoder import Decoder
from bem.engine.kv_cache import KVCache
from bem.engine.native import KernelPreference
from bem.engine.weight_autotune import select_format
from bem_fleet.data.passage_qa import load_passage_qa
from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".cache/models"
COMPILED = ROOT / ".cache/kernels"
GREEDY = Sampling(temperature=0)
RANK, LAYERS, FIRST = 8, 30, 15


def backbone(kind: str = "auto", kernels: KernelPreference = "auto") -> Backbone:
    """Load the packaged model, held as ``kind`` and multiplied by ``kernels``."""
    return select_format(load_backbone(cache=CACHE), kind, kernels, cache=COMPILED)[0]  # type: ignore[arg-type]


def text_ids(tokenizer: object, count: int) -> list[int]:
    """Return the first ``count`` tokens of the passages of the question set, each passage once."""
    splits = load_passage_qa(0).splits.values()
    text = "\n\n".join(dict.fromkeys(item.passage for split in splits for item in split))
    ids: list[int] = tokenizer(text)["input_ids"][:count]  # type: ignore[operator]
    return ids


def with_sites(
    loaded: Backbone, *, slots: int, rank: int = RANK, layers: Sequence[int] = range(FIRST, LAYERS)
) -> tuple[AdapterBank, list[BemSite]]:
    """Install sites and fill every slot with random factors."""
    bank = AdapterBank(
        loaded, layers=list(layers), rank=rank, slots=slots, feature_layer=min(layers) - 1
    )
    sites = [module for module in loaded.model.modules() if isinstance(module, BemSite)]
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for site in sites:
            site.A.normal_(std=0.02, generator=generator)
            site.B.normal_(std=0.02, generator=generator)
    return bank, sites


class DecodeLoop:
    """Decode steps without a scheduler: what the forward alone takes.

    Args:
        loaded: The model.
        bank: Its adapters, or None.
        rows: Rows of a step.
        context: Positions of the cache.
    """

    def __init__(
        self, loaded: Backbone, bank: AdapterBank | None, *, rows: int, context: int = 640
    ) -> None:
        cache = KVCache(loaded, slots=rows, context_tokens=context)
        self.decoder = Decoder(loaded, bank, cache)
        self.rows, self.ids = rows, torch.full((rows, 1), 504)

    def forward(self, ids: Tensor, start: int) -> Tensor:
        """Return the last position's logits of ``ids [R, T]`` at ``start``."""
        with torch.inference_mode():
            span = self.decoder.plan(list(range(len(ids))), [start] * len(ids), ids.shape[1])
            hidden, _ = self.decoder.lower(ids, span)
            return self.decoder.logits(self.decoder.upper(hidden, span))

    def steps(self, count: int, start: int = 64) -> None:
        """Decode ``count`` tokens a row greedily."""
        ids = self.ids
        for step in range(count):
            ids = self.forward(ids, start + step).argmax(-1, keepdim=True)


def serve(worker: LLMEngine, prompts: Sequence[Sequence[int]], tokens: int) -> int:
    """Send all prompts at once, wait for all answers, and return the tokens generated."""
    arrived: queue.Queue[OutputDelta | Exception] = queue.Queue()
    for prompt in prompts:
        worker.submit(GenerationRequest(tuple(prompt), GREEDY, tokens), arrived.put)
    generated = left = 0
    left = len(prompts)
    while left:
        piece = arrived.get(timeout=300)
        if isinstance(piece, Exception):
            raise piece
        if piece.finish:
            left -= 1
            generated += piece.completion_tokens
    return generated
