"""Parts of a served model: the verified base model, its adapter bank, and the safety adapter."""

from pathlib import Path

from bem.adapters.bank import AdapterBank
from bem.adapters.site import default_layers
from bem.backbone import Backbone, load_backbone
from bem.cache_policy import EVICTION_POLICIES, LearnedPolicy
from bem.cache_policy.artifact import load_scorer
from bem.engine import CacheSetting
from bem.engine.shard_processes import start_shards
from bem.engine.verification import verify_backbone
from bem.errors import BaseMismatchError, InvalidSettingError
from bem.safety import SafetyOverlay
from bem.safety.artifact import CARD_FILE
from bem.safety.overlay import load_overlay
from bem.testing import tiny_backbone
from fleet import logs

from bem_fleet.serving.adapter_folder import ONE_LAYER

TINY = "tiny"
KEEP_ALL, LEARNED = "full", "learned"
_LOG = logs.get("serving.model_loading")


def load_verified_backbone(
    source: str,
    *,
    device: str,
    cache: Path,
    context_tokens: int | None,
    shards: int = 1,
    threads: int = 0,
) -> Backbone:
    """Load a base model and compare its outputs with transformers'; blocks for seconds.

    Args:
        source: As ``bem.backbone.load_backbone`` takes it, or ``tiny``: random weights for tests.
        device: Torch device.
        cache: Folder of de-quantised and downloaded models, and of remembered comparisons.
        context_tokens: Context that will be served; None for the model's own.
        shards: Processes that hold the model together; further ones are started.
        threads: Threads of each of several processes; 0 divides the machine's processors.

    Raises:
        BackboneNotFoundError: There is no such model, or its files are broken.
        InvalidSettingError: ``tiny`` is wanted in several processes.
        ShardGroupError: Another process ended, or has no GPU.
        UnsupportedBackboneError: The engine does not compute what transformers computes, or the
            model cannot be cut into so many parts.
    """
    if source == TINY and shards > 1:
        raise InvalidSettingError(f"shards: {TINY} is no model folder; set SHARDS to 1")
    if source == TINY:
        return tiny_backbone()
    if shards > 1:
        backbone = start_shards(source, shards, device=device, cache=cache, threads=threads)
    else:
        backbone = load_backbone(source, device=device, cache=cache)
    context_tokens = context_tokens or backbone.context_tokens
    difference = verify_backbone(backbone, context_tokens=context_tokens, cache=cache)
    _LOG.info("base model verified", name=backbone.name, logit_difference=difference)
    return backbone


def open_bank(
    backbone: Backbone,
    *,
    first_layer: int | None,
    feature_layer: int | None,
    rank: int,
    slots: int,
    max_loaded: int = 1024,
) -> AdapterBank | None:
    """Return an empty adapter bank; None for a model that has no room for one.

    That is a model of one layer, or one that several processes hold.

    Args:
        backbone: Base model; sites are installed in it.
        first_layer: Lowest layer with sites; None takes the upper half of the layers.
        feature_layer: Layer that controllers read; None takes a quarter of the layers.
        rank: Highest rank of an adapter.
        slots: Adapters that are resident at once.
        max_loaded: Adapters that may be loaded.

    Raises:
        InvalidSettingError: The model has too few layers for the settings.
    """
    count = len(backbone.layers)
    if backbone.shards is not None or (count == 1 and first_layer is None):
        return None
    default_first, default_feature = default_layers(count)
    first = default_first if first_layer is None else first_layer
    if not 1 <= first < count:
        raise InvalidSettingError(
            f"first_layer: {first} is out of range; {backbone.name} has {count} layers; set "
            f"FIRST_LAYER to 1 to {count - 1}, or leave it unset"
        )
    feature = min(default_feature, first - 1) if feature_layer is None else feature_layer
    if not 0 <= feature < first:
        raise InvalidSettingError(
            f"feature_layer: {feature} is out of range; it must be below the first layer with "
            f"adapters, {first}; set FEATURE_LAYER to 0 to {first - 1}, or leave it unset"
        )
    return AdapterBank(
        backbone,
        layers=range(first, count),
        rank=rank,
        slots=slots,
        feature_layer=feature,
        max_loaded=max_loaded,
        linear=True,
    )


def install_safety_adapter(
    backbone: Backbone, bank: AdapterBank | None, folder: Path
) -> tuple[SafetyOverlay | None, str]:
    """Load the safety adapter into a bank without adapters.

    A base model that it was not trained for is served without it, and the second value says so.
    A safety adapter of this base model that is broken or edited is an error: the operator believes
    that it works.

    Args:
        backbone: Base model.
        bank: Adapter bank of the model; None if it has no room for one.
        folder: Folder of the safety adapter.

    Returns:
        The safety adapter, or None; and why there is none, empty if there is one.

    Raises:
        ArtifactFormatError: A file is malformed, or does not fit the bank.
        ArtifactTamperedError: The card or the tensors do not have the hash on the card.
    """
    if not (folder / CARD_FILE).is_file():
        return None, f"safety adapter: none is loaded; {folder.name} has no {CARD_FILE}"
    if bank is None:
        return None, f"safety adapter: none is loaded; {no_bank_reason(backbone)}"
    try:
        overlay = load_overlay(bank, folder, base_digest=backbone.digest)
    except BaseMismatchError as err:
        reason = (
            f"safety adapter: none is loaded; {err}; train one with `fleetctl train safety "
            "--backbone MODEL`"
        )
        _LOG.warning("served without the safety adapter", reason=reason)
        return None, reason
    _LOG.info("safety adapter loaded", version=overlay.version[:12])
    return overlay, ""


def no_bank_reason(backbone: Backbone) -> str:
    """Return why a model has no adapter bank."""
    if backbone.shards is not None:
        return f"{backbone.shards.size} processes hold the base model; adapters need SHARDS at 1"
    return ONE_LAYER


def cache_setting(
    backbone: Backbone, policy: str, share: float, folder: Path
) -> CacheSetting | None:
    """Return the cache policy of an engine; None where all entries stay.

    Args:
        backbone: Base model.
        policy: Name of the policy, or ``full``.
        share: Share of a prompt's bytes that stays.
        folder: Folder of the learned policy.

    Raises:
        InvalidSettingError: Policy and share contradict each other.
        ArtifactFormatError: The learned policy is missing or malformed.
        BaseMismatchError: The learned policy was trained for another base model.
    """
    if policy == KEEP_ALL:
        if share < 1:
            raise InvalidSettingError(
                f"kv_share: is {share:g}, but kv_policy full evicts nothing; set KV_POLICY to one "
                f"of {', '.join((*EVICTION_POLICIES, LEARNED))}, or KV_SHARE to 1"
            )
        return None
    if share == 1:
        raise InvalidSettingError(
            f"kv_policy: {policy} evicts nothing at kv_share 1; set KV_SHARE below 1, or "
            "KV_POLICY to full"
        )
    if policy != LEARNED:
        return CacheSetting(EVICTION_POLICIES[policy](), share)
    scorer, card = load_scorer(folder, base_digest=backbone.digest)
    _LOG.info("cache policy loaded", version=card.sha256[:12], share=share)
    return CacheSetting(LearnedPolicy(scorer), share)


def model_warnings(backbone: Backbone, safety: str = "") -> list[str]:
    """Return what a mission serves without.

    Args:
        backbone: Base model.
        safety: Why there is no safety adapter; empty if there is one or none is wanted.
    """
    warnings = [safety] if safety else []
    if backbone.shards is not None:
        warnings.append(f"adapters: none are served; {no_bank_reason(backbone)}")
    own = backbone.model.config.max_position_embeddings
    if backbone.context_tokens < own:
        warnings.append(
            f"context: {backbone.context_tokens} of {own} tokens; rotary factors of longer texts "
            "(longrope) are not served"
        )
    if not backbone.tokenizer.chat_template:
        warnings.append(f"chat: {backbone.name} has no chat template; chats are refused")
    return warnings
