"""Model loading: base model, adapter bank, safety adapter and engine from the settings."""

from pathlib import Path

import torch
from bem.adapters.bank import AdapterBank
from bem.backbone import Backbone, load_backbone
from bem.engine import LLMEngine
from bem.engine.weight_autotune import select_format
from bem.safety import SafetyOverlay
from bem.safety.artifact import CARD_FILE
from bem.safety.overlay import load_overlay
from bem_fleet.services.router.engine_metrics import RESIDENT, WEIGHTS
from bem_fleet.services.router.model_host import ModelHost
from bem_fleet.services.router.settings import RouterSettings
from fleet import logs

_LOG = logs.get("router.model_loading")


def load(settings: RouterSettings) -> ModelHost:
    """Load base model and adapters, verify the model with one token and start the engine; blocks.

    Args:
        settings: Settings of the service.
    """
    if settings.threads:
        torch.set_num_threads(settings.threads)
    loaded = load_backbone(settings.backbone, device=settings.device, cache=settings.cache)
    backbone, choice = select_format(
        loaded,
        settings.weights,
        settings.kernels,
        cache=settings.kernels_cache,
        perplexity_memo=settings.cache / "perplexity.json",
    )
    _LOG.info(
        "weights",
        kind=backbone.weight_format,
        requested=settings.weights,
        kernels=choice.kernels,
        milliseconds=choice.milliseconds or None,
        perplexity_ratios=choice.perplexity_ratios or None,
    )
    WEIGHTS.labels(choice.kind, settings.weights, choice.kernels).set(1)
    return assemble(backbone, settings)


def assemble(backbone: Backbone, settings: RouterSettings) -> ModelHost:
    """Build adapter bank and engine around a loaded backbone and start the engine."""
    bank = AdapterBank(
        backbone,
        layers=range(settings.first_layer, len(backbone.layers)),
        rank=settings.rank,
        slots=settings.slots,
        feature_layer=settings.feature_layer,
        max_loaded=settings.max_adapters,
    )
    overlay = _load_safety_adapter(backbone, bank, settings.safety)
    for card in sorted(settings.adapter_folder.glob("*/card.json")):
        adapter = bank.load(card.parent)
        RESIDENT.labels(adapter.name, adapter.version[:12]).set(1)
        _LOG.info("adapter loaded", adapter=adapter.name, version=adapter.version[:12])
    engine = LLMEngine(
        backbone,
        bank,
        max_sequences=settings.rows,
        max_waiting=settings.queue,
        context_tokens=settings.context_tokens,
        kv_bytes=settings.kv_mib * 2**20,
        prefix_bytes=settings.prefix_mib * 2**20,
        safety=overlay,
    )
    engine.start()
    return ModelHost(
        backbone,
        engine,
        settings.adapter_folder,
        safety_strength=settings.safety_strength,
        safety_floor=settings.safety_floor,
    )


def _load_safety_adapter(
    backbone: Backbone, bank: AdapterBank, folder: Path
) -> SafetyOverlay | None:
    """Load the safety adapter, which must enter the bank first; None if the folder has none."""
    if not (folder / CARD_FILE).is_file():
        return None
    overlay = load_overlay(bank, folder, base_digest=backbone.digest)
    RESIDENT.labels("safety", overlay.version[:12]).set(1)
    _LOG.info("safety adapter loaded", version=overlay.version[:12])
    return overlay
