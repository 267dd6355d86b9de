"""Model loading: base model, adapter bank, safety adapter and engine from the settings."""

from collections.abc import Mapping

import torch
from bem.backbone import Backbone
from bem.composition import CompositionSettings
from bem.engine import CacheSetting, LLMEngine
from bem.engine.weight_autotune import select_format
from bem_fleet.services.router.context_limit import DefaultTokens
from bem_fleet.services.router.engine_metrics import REJECTED, SAFETY_ADAPTER, WEIGHTS
from bem_fleet.services.router.model_host import ModelHost
from bem_fleet.services.router.settings import RouterSettings
from bem_fleet.serving.adapter_folder import AdapterFolder
from bem_fleet.serving.model_loading import (
    cache_setting,
    install_safety_adapter,
    load_verified_backbone,
    model_warnings,
    no_bank_reason,
    open_bank,
)
from fleet import logs

_LOG = logs.get("router.model_loading")


def load(settings: RouterSettings) -> ModelHost:
    """Load base model and adapters, verify the model with one token and start the engine; blocks.

    Args:
        settings: Settings of the service.
    """
    if settings.threads:
        torch.set_num_threads(settings.threads)
    loaded = load_verified_backbone(
        settings.backbone,
        device=settings.device,
        cache=settings.cache,
        context_tokens=settings.context_tokens,
        shards=settings.shards,
        threads=settings.threads,
    )
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
    if (device := torch.device(settings.device)).type == "cuda":
        from fleet.gpu_metrics import register_gpu  # noqa: PLC0415 - loads NVML

        register_gpu(str(torch.cuda.get_device_properties(device).uuid))
    return assemble(backbone, settings)


def assemble(backbone: Backbone, settings: RouterSettings) -> ModelHost:
    """Build adapter bank and engine around a loaded backbone and start the engine."""
    bank = open_bank(
        backbone,
        first_layer=settings.first_layer,
        feature_layer=settings.feature_layer,
        rank=settings.rank,
        slots=settings.slots,
        max_loaded=settings.max_adapters,
    )
    overlay, unsafe = install_safety_adapter(backbone, bank, settings.safety)
    SAFETY_ADAPTER.set(overlay is not None)
    folder = AdapterFolder(settings.adapter_folder, _export_rejected)
    folder.load_all(bank, no_bank_reason(backbone))
    engine = LLMEngine(
        backbone,
        bank,
        max_sequences=settings.rows,
        max_waiting=settings.queue,
        max_wait_s=settings.queue_s,
        guests=settings.guests,
        context_tokens=settings.context_tokens,
        kv_bytes=settings.kv_mib * 2**20,
        prefix_bytes=settings.prefix_mib * 2**20,
        composition=_composition(settings),
        safety=overlay,
        cache=_cache_setting(backbone, settings),
    )
    engine.start()
    return ModelHost(
        backbone,
        engine,
        folder,
        safety_strength=settings.safety_strength,
        safety_floor=settings.safety_floor,
        warnings=model_warnings(backbone, unsafe),
        default_tokens=_default_tokens(settings),
        composed_adapters=settings.composed_adapters,
    )


def _default_tokens(settings: RouterSettings) -> DefaultTokens:
    return DefaultTokens(settings.default_chat_tokens, settings.default_completion_tokens)


def _composition(settings: RouterSettings) -> CompositionSettings:
    return CompositionSettings(
        settings.composition, settings.composition_tau, settings.composed_adapters
    )


def _cache_setting(backbone: Backbone, settings: RouterSettings) -> CacheSetting | None:
    folder = settings.kv_policy_folder
    return cache_setting(backbone, settings.kv_policy, settings.kv_share, folder)


def _export_rejected(reasons: Mapping[str, str]) -> None:
    REJECTED.clear()
    for name in reasons:
        REJECTED.labels(name).set(1)
