"""Fixtures of the engine benchmarks: the packaged model, its decoder and random adapters."""

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
KERNELS_CACHE = ROOT / ".cache/kernels"
GREEDY = Sampling(temperature=0)
RANK, LAYERS, FIRST_LAYER = 8, 30, 15


def load(kind: str = "auto", kernels: KernelPreference = "auto") -> Backbone:
    """Load the packaged model.

    Args:
        kind: Weight format; ``auto`` measures.
        kernels: Kernels that multiply quantised weights.
    """
    backbone = load_backbone(cache=CACHE)
    return select_format(backbone, kind, kernels, cache=KERNELS_CACHE)[0]  # type: ignore[arg-type]


def text_ids(tokenizer: object, count: int) -> list[int]:
    """Return the first ``count`` tokens of the question set's passages, each passage once."""
    items = load_passage_qa(0).splits["train"]
    text = "\n\n".join(dict.fromkeys(item.passage for item in items))
    ids: list[int] = tokenizer(text)["input_ids"][:count]  # type: ignore[operator]
    return ids


def install_random_adapters(
    backbone: Backbone,
    *,
    slots: int,
    rank: int = RANK,
    layers: Sequence[int] = range(FIRST_LAYER, LAYERS),
    linear: bool = False,
) -> tuple[AdapterBank, list[BemSite]]:
    """Install sites, of all linear layers on demand, and fill every slot with random factors."""
    bank = AdapterBank(
        backbone,
        layers=list(layers),
        rank=rank,
        slots=slots,
        feature_layer=min(layers) - 1,
        linear=linear,
    )
    sites = [module for module in backbone.model.modules() if isinstance(module, BemSite)]
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for site in sites:
            for slot in range(slots):
                a = torch.empty(rank, site.A.shape[2]).normal_(std=0.02, generator=generator)
                b = torch.empty(site.B.shape[1], rank).normal_(std=0.02, generator=generator)
                site.write(slot, (a, b), 1.0)
    return bank, sites


class DecodeLoop:
    """Decode steps without scheduler: the time of the forward pass alone.

    Args:
        backbone: The model.
        bank: Adapters of the model, or None.
        rows: Rows of a step.
        context: Positions of the KV cache.
    """

    def __init__(
        self, backbone: Backbone, bank: AdapterBank | None, *, rows: int, context: int = 640
    ) -> None:
        kv_cache = KVCache(backbone, slots=rows, context_tokens=context)
        self.decoder = Decoder(backbone, bank, kv_cache)
        self.rows, self.ids = rows, torch.full((rows, 1), 504)

    def forward(self, ids: Tensor, start: int) -> Tensor:
        """Return the last position's logits of ``ids [R, T]`` at ``start``."""
        with torch.inference_mode():
            plan = self.decoder.plan(list(range(len(ids))), [start] * len(ids), ids.shape[1])
            hidden, _ = self.decoder.lower(ids, plan)
            return self.decoder.logits(self.decoder.upper(hidden, plan))

    def run(self, steps: int, start: int = 64) -> None:
        """Decode ``steps`` tokens per row greedily."""
        ids = self.ids
        for step in range(steps):
            ids = self.forward(ids, start + step).argmax(-1, keepdim=True)


def complete_all(engine: LLMEngine, prompts: Sequence[Sequence[int]], tokens: int) -> int:
    """Submit all prompts at once, wait for all outputs, and return the tokens generated."""
    arrived: queue.Queue[OutputDelta | Exception] = queue.Queue()
    for prompt in prompts:
        engine.submit(GenerationRequest(tuple(prompt), GREEDY, tokens), arrived.put)
    generated, left = 0, len(prompts)
    while left:
        delta = arrived.get(timeout=300)
        if isinstance(delta, Exception):
            raise delta
        if delta.finish:
            left -= 1
            generated += delta.completion_tokens
    return generated
