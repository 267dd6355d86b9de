"""De-quantisation at build time."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from docker import bake_base_model


def test_model_has_a_time_of_whole_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The digest is recorded for the modification time that an image layer can store."""
    source = tmp_path / "model.gguf"
    source.write_text("weights")
    model = SimpleNamespace(name="tiny", digest="d")
    monkeypatch.setattr(bake_base_model, "locate_model", lambda _: source)
    monkeypatch.setattr(bake_base_model, "load_backbone", lambda **_: model)
    bake_base_model.bake(tmp_path)

    assert source.stat().st_mtime_ns % 10**9 == 0
    assert capsys.readouterr().out == "baked tiny d\n"
