"""Tests of model loading from settings."""

from pathlib import Path

import pytest
from bem.engine import GenerationRequest, LLMEngine, Sampling
from bem.errors import InvalidSettingError
from bem.testing import tiny_backbone
from bem_fleet.services.router import model_loading
from bem_fleet.services.router.settings import RouterSettings
from prometheus_client import REGISTRY

from tests.support.random_adapters import FEATURE_LAYER, LAYERS, RANK, write_adapter
from tests.support.random_safety_adapters import write_safety
from tests.support.tiny_models import save_folder, tiny_model


def settings_of(folder: Path) -> RouterSettings:
    """Settings for the tiny model."""
    return RouterSettings(
        adapter_folder=folder / "adapters",
        safety=folder / "safety",
        context_tokens=128,
        rank=RANK,
        slots=3,
        first_layer=min(LAYERS),
        feature_layer=FEATURE_LAYER,
        rows=2,
        queue=5,
    )


@pytest.mark.parametrize("safety", [False, True])
async def test_bank_and_engine_follow_the_settings(tmp_path: Path, *, safety: bool) -> None:
    """Adapters of the folder are loaded, and the safety adapter if its folder has one."""
    write_adapter(tmp_path / "adapters", tiny_backbone(), "alpha", seed=0)
    if safety:
        write_safety(tmp_path / "safety", tiny_backbone())
    host = model_loading.assemble(tiny_backbone(), settings_of(tmp_path))
    engine = host._engine
    assert isinstance(engine, LLMEngine)
    await host.close()

    assert [adapter.name for adapter in host.adapters()] == ["alpha"]
    assert host.context_tokens == 128
    assert engine.core.scheduler.free_slots == 2 + RouterSettings().guests
    assert (engine.safety is not None) is safety


async def test_load_selects_the_weight_format(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The backbone of the settings is loaded in the configured format."""
    sources: list[str] = []

    def load_tiny(source: str, **_: object) -> object:
        sources.append(source)
        return tiny_backbone()

    monkeypatch.setattr(model_loading, "load_verified_backbone", load_tiny)
    changes = {"backbone": "tiny-model", "weights": "int8", "kernels": "torch"}
    host = model_loading.load(settings_of(tmp_path).model_copy(update=changes))
    await host.close()

    labels = {"format": "int8", "requested": "int8", "kernels": "torch: as configured"}
    assert REGISTRY.get_sample_value("bem_router_weights", labels) == 1
    assert sources == ["tiny-model"]
    assert host.backbone.weight_format == "int8"


async def test_a_cache_policy_of_the_settings_is_served(tmp_path: Path) -> None:
    """The engine compresses by policy and share."""
    settings = settings_of(tmp_path).model_copy(update={"kv_policy": "snapkv", "kv_share": 0.5})
    host = model_loading.assemble(tiny_backbone(), settings)
    engine = host._engine
    assert isinstance(engine, LLMEngine)
    await host.close()
    assert engine.core.compressor is not None
    cache = engine.core.compressor.setting

    assert (cache.policy.name, cache.share) == ("snapkv", 0.5)


@pytest.mark.slow
async def test_a_model_in_two_processes_is_served_without_adapters(tmp_path: Path) -> None:
    """Status names what is missing, an adapter folder keeps its reason, and texts are the same."""
    folder = save_folder(tmp_path / "model", tiny_model("llama"))
    write_adapter(tmp_path / "adapters", tiny_backbone(), "alpha", seed=0)
    own = {"first_layer": None, "feature_layer": None, "backbone": str(folder), "weights": "fp32"}
    settings = settings_of(tmp_path).model_copy(update={**own, "cache": tmp_path / "cache"})
    texts = []
    for shards in (1, 2):
        host = model_loading.load(settings.model_copy(update={"shards": shards}))
        request = GenerationRequest(tuple(range(90)), Sampling(temperature=0), max_tokens=12)
        texts.append((await host.complete(request)).text)
        if shards == 2:
            assert any("adapters: none are served; 2 processes" in one for one in host.warnings)
            (rejected,) = host.rejected_adapters()
            assert "2 processes hold the base model" in rejected.reason
            with pytest.raises(InvalidSettingError, match="shards: adapters are not supported"):
                await host.load_adapter("alpha")
        await host.close()
    assert texts[0] == texts[1]
