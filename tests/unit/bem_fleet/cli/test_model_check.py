"""Check of a base model: its report, and the speed of an engine."""

from dataclasses import asdict
from pathlib import Path

from bem.engine import LLMEngine
from bem.engine.verification import TOLERANCE
from bem.testing import tiny_backbone
from bem_fleet.cli.model_check import ModelOptions, check_model, measure_speed

from tests.support.family_models import family_backbone
from tests.support.tiny_models import save_folder, tiny_model


def test_the_report_is_that_of_the_loaded_model(tmp_path: Path) -> None:
    """Memory is that of the matrices in their format; a fallback of the kernels is named."""
    folder = save_folder(tmp_path / "granite", family_backbone("granite").model)
    options = ModelOptions(tmp_path / "cache", tmp_path / "none", weights="fp32")
    exact = check_model(str(folder), options)

    assert exact.logit_difference <= TOLERANCE
    assert (exact.family, exact.beyond_llama) == ("Granite", ["multipliers or soft caps"])
    assert (exact.layers, exact.first_adapter_layer) == (3, 1)
    parameters = family_backbone("granite").model.parameters()
    matrices = sum(one.nbytes for one in parameters if one.dim() == 2)
    assert exact.weight_bytes == matrices
    assert any("none is loaded" in text for text in exact.warnings)
    assert exact.as_table().count("\n") >= len(asdict(exact)) - 8


def test_a_model_of_one_layer_has_no_adapters(tmp_path: Path) -> None:
    """The report says so instead of naming layers."""
    folder = save_folder(tmp_path / "one", tiny_model("llama", num_hidden_layers=1))
    options = ModelOptions(tmp_path / "cache", tmp_path / "none", weights="fp32")

    found = check_model(str(folder), options)
    assert found.first_adapter_layer is None
    assert "none: the model has one layer" in found.as_table()


def test_speed_is_measured_until_the_last_token() -> None:
    """All measured requests end, so that the engine is idle again."""
    engine = LLMEngine(tiny_backbone(), max_sequences=16, context_tokens=48, prefix_bytes=0)
    speed = measure_speed(engine)

    assert min(asdict(speed).values()) > 0
    assert engine.counters.running == engine.counters.waiting == 0
    assert engine.counters.prompt_tokens == 18 * 36
