"""``fleetctl model check``: what is served, and refusals, as exit codes and output."""

import json
from pathlib import Path

import pytest
from bem_fleet.cli import main

from tests.support.family_models import family_backbone
from tests.support.tiny_models import save_folder, tiny_config


def check(folder: Path, *options: str) -> int:
    """Run the command with a cache of its own."""
    own = ["--cache", str(folder.parent / "cache"), "--safety", str(folder.parent / "none")]
    return main(["model", "check", str(folder), *own, *options])


def test_a_served_model_is_described(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The table names family, context, format, memory and speed; JSON has the same values."""
    folder = save_folder(tmp_path / "tiny-gemma", family_backbone("gemma3").model)
    assert check(folder, "--weights", "int8", "--kernels", "torch") == 0
    table = capsys.readouterr().out
    assert check(folder, "--weights", "fp32", "--context-tokens", "64", "--json") == 0
    found = json.loads(capsys.readouterr().out)

    assert "tiny-gemma (Gemma 3 (text), 3 layers)" in table
    assert "256 tokens; sliding window 16 tokens" in table
    assert "int8" in table
    assert "torch: as configured" in table
    assert "none is loaded" in table
    assert (found["weights"], found["context_tokens"], found["window"]) == ("fp32", 64, 16)
    assert found["kv_request_bytes"] == 64 * found["kv_token_bytes"] == 64 * 2 * 3 * 2 * 16 * 4
    assert found["peak_bytes"] > found["weight_bytes"]
    assert min(found["speed"].values()) > 0


def test_a_refused_model_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The exit code is 1 and the reason names the architecture."""
    folder = tmp_path / "experts"
    tiny_config("mixtral").save_pretrained(folder)
    (folder / "model.safetensors").write_bytes(b"")

    assert check(folder) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("fleetctl: backbone: experts has model_type 'mixtral'")


def test_a_model_is_written_with_a_template(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is written is served with chats; a template that does not fit is one line."""
    folder = save_folder(tmp_path / "base", family_backbone("gemma3").model)
    (folder / "chat_template.jinja").unlink()
    template = tmp_path / "template.jinja"
    template.write_text("{% for one in messages %}{{ one.content }}{% endfor %}")
    made = ["model", "convert", str(folder), "--out", str(tmp_path / "made")]
    made += ["--cache", str(tmp_path / "cache"), "--chat-template", str(template)]
    assert main(made) == 0
    assert main(made) == 1
    output = capsys.readouterr()
    assert "fleetctl model check" in output.out
    assert output.err.splitlines()[-1].startswith("fleetctl: out: ")
    other = str(tmp_path / "other")
    assert main(["model", "convert", str(folder), "--out", other, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"folder": other}
    assert check(folder, "--weights", "fp32") == 0
    assert "chats are refused" in capsys.readouterr().out
    assert check(tmp_path / "made", "--weights", "fp32") == 0
    assert "chats are refused" not in capsys.readouterr().out
