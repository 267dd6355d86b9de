"""Adapter folder: a bad adapter is named with its reason and keeps nobody from serving."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from bem.adapters.artifact import CARD_FILE, TENSORS_FILE, read_adapter, save_adapter
from bem.adapters.bank import AdapterBank
from bem.engine import LLMEngine, generate
from bem.errors import ArtifactFormatError, ArtifactTamperedError, InvalidRequestError
from bem.testing import tiny_backbone
from bem_fleet.serving.adapter_folder import AdapterFolder, valid_adapter_name
from fleet.errors import NotFoundError

from tests.support.random_adapters import FEATURE_LAYER, LAYERS, RANK, write_adapter

Spoil = Callable[[Path], object]


def make_bank() -> AdapterBank:
    """Return an empty bank of the tiny model."""
    return AdapterBank(
        tiny_backbone(), layers=LAYERS, rank=RANK, slots=3, feature_layer=FEATURE_LAYER
    )


def edit(folder: Path, **values: Any) -> None:
    """Edit the card of an adapter as a text editor would."""
    path = folder / CARD_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def save_again(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Write an adapter with changed tensors and the right hashes."""
    adapter = read_adapter(folder, base_digest=tiny_backbone().digest)
    tensors = {f"controller.{name}": tensor for name, tensor in adapter.controller.items()}
    for site, (a, b) in adapter.factors.items():
        tensors |= {f"{site}.A": a, f"{site}.B": b}
    change(tensors)
    save_adapter(folder, adapter.card, tensors)


def drop_controller(tensors: dict[str, torch.Tensor]) -> None:
    """Drop the tensors of the controller."""
    for name in [name for name in tensors if name.startswith("controller.")]:
        del tensors[name]


def run(*steps: Callable[[], object]) -> None:
    """Take steps one after another."""
    for step in steps:
        step()


def replace_by_link(path: Path) -> None:
    """Move a file or folder out of the adapter folder and leave a link in its place."""
    elsewhere = path.parents[0 if path.is_dir() else 1].parent / "elsewhere"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)


SPOILED: dict[str, tuple[Spoil, str]] = {
    "no controller": (lambda f: save_again(f, drop_controller), r"missing \['controller"),
    "one tensor less": (
        lambda f: save_again(f, lambda t: t.pop("model.layers.3.mlp.down_proj.B")),
        "missing .*down_proj.B",
    ),
    "one tensor more": (
        lambda f: save_again(f, lambda t: t.update({"model.layers.0.q.A": torch.ones(1)})),
        r"unknown \['model.layers.0.q.A'\]",
    ),
    "controller of another shape": (
        lambda f: save_again(f, lambda t: t.update({"controller.code.bias": torch.ones(9)})),
        r"controller\.code\.bias has the shape \(9,\)",
    ),
    "controller of another width": (
        lambda f: save_again(
            f, lambda t: t.update({"controller.inner.weight": torch.ones(32, 48)})
        ),
        r"needs \(32, 32\)",
    ),
    "factor of another rank": (
        lambda f: save_again(
            f, lambda t: t.update({"model.layers.3.mlp.down_proj.A": torch.ones(3, 64)})
        ),
        r"A \(3, 64\)",
    ),
    "factor of another width": (
        lambda f: save_again(
            f, lambda t: t.update({"model.layers.3.mlp.down_proj.A": torch.ones(4, 63)})
        ),
        "maps 63 to 32",
    ),
    "factor of one dimension": (
        lambda f: save_again(
            f, lambda t: t.update({"model.layers.3.mlp.down_proj.B": torch.ones(4)})
        ),
        r"B \(4,\)",
    ),
    "NaN weight": (
        lambda f: save_again(f, lambda t: t["controller.code.weight"].fill_(float("nan"))),
        "magnitude is nan",
    ),
    "huge weight": (
        lambda f: save_again(f, lambda t: t["model.layers.3.mlp.down_proj.B"].fill_(1e30)),
        "magnitude is 1e",
    ),
    "scale as text": (lambda f: edit(f, scale="2"), "scale: '2' is no number"),
    "scale of 100": (lambda f: edit(f, scale=100), "scale: 100 is no number .* at most 16"),
    "negative scale": (lambda f: edit(f, scale=-1.0), "scale: -1.0"),
    "NaN scale": (lambda f: edit(f, scale=float("nan")), "NaN is no number of JSON"),
    "another command": (lambda f: edit(f, command="none"), "so it was edited"),
    "scale within the range": (lambda f: edit(f, scale=1.5), "so it was edited"),
    "another name": (lambda f: edit(f, name="alpha"), "so it was edited"),
    "layers as text": (lambda f: edit(f, layers=["2"]), "layers: "),
    "layers in disorder": (lambda f: edit(f, layers=[3, 2]), "ascending"),
    "unknown kind": (lambda f: edit(f, kinds=["conv"]), "kinds: "),
    "rank of zero": (lambda f: edit(f, rank=0), "rank: 0"),
    "rank as boolean": (lambda f: edit(f, rank=True), "rank: True"),
    "unknown field": (lambda f: edit(f, colour="red"), r"unknown \['colour'\]"),
    "card of nothing": (lambda f: (f / CARD_FILE).write_text("null"), "no JSON object"),
    "card of bytes": (lambda f: (f / CARD_FILE).write_bytes(b"\xff\x00"), "not JSON"),
    "no tensors": (lambda f: (f / TENSORS_FILE).unlink(), "has no adapter.safetensors"),
    "no card": (lambda f: (f / CARD_FILE).unlink(), "has no card.json"),
    "truncated tensors": (
        lambda f: (f / TENSORS_FILE).write_bytes((f / TENSORS_FILE).read_bytes()[:-8]),
        "SHA-256",
    ),
    "card is a folder": (
        lambda f: run((f / CARD_FILE).unlink, (f / CARD_FILE).mkdir),
        "no regular file",
    ),
    "card is a pipe": (
        lambda f: run((f / CARD_FILE).unlink, lambda: os.mkfifo(f / CARD_FILE)),
        "no regular file",
    ),
    "tensors are a link": (lambda f: replace_by_link(f / TENSORS_FILE), "is a link"),
    "folder is a link": (replace_by_link, "is a link"),
    "renamed folder": (
        lambda f: run(lambda: shutil.rmtree(f), lambda: shutil.copytree(f.parent / "alpha", f)),
        "folder 'bad' states 'alpha'",
    ),
    "PEFT folder": (
        lambda f: run((f / CARD_FILE).unlink, lambda: (f / "adapter_config.json").write_text("{}")),
        "is a PEFT folder.*import",
    ),
}


@pytest.mark.parametrize("spoil", SPOILED, ids=str)
def test_bad_folder_is_named_and_the_others_serve(tmp_path: Path, spoil: str) -> None:
    """The good adapters before and after it are loaded, and the reason says what is wrong."""
    change, named = SPOILED[spoil]
    folder = tmp_path / "adapters"
    for index, name in enumerate(("alpha", "bad", "zeta")):
        write_adapter(folder, tiny_backbone(), name, seed=index)
    change(folder / "bad")
    reported: list[dict[str, str]] = []
    adapters = AdapterFolder(folder, lambda reasons: reported.append(dict(reasons)))
    bank = make_bank()
    loaded = adapters.load_all(bank)
    (rejected,) = adapters.rejected()

    assert [one.name for one in loaded] == ["alpha", "zeta"] == [a.name for a in bank.adapters()]
    assert rejected.name == "bad"
    with pytest.raises(AssertionError, match=named):
        raise AssertionError(rejected.reason)
    assert str(tmp_path) not in rejected.reason
    assert reported == [{"bad": rejected.reason}]


def test_other_folders_are_no_adapters(tmp_path: Path) -> None:
    """Files, hidden folders, the guard's and the safety adapter's folders are passed over."""
    (tmp_path / "guard").mkdir()
    (tmp_path / "guard" / "heads.json").write_text("{}")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / CARD_FILE).write_text("{}")
    (tmp_path / "README.md").write_text("x")
    adapters = AdapterFolder(tmp_path)

    assert adapters.load_all(make_bank()) == []
    assert adapters.rejected() == []
    assert AdapterFolder(tmp_path / "missing").load_all(make_bank()) == []


def test_names_that_requests_cannot_use_are_rejected(tmp_path: Path) -> None:
    """A folder with a space, and the base model's own name."""
    write_adapter(tmp_path, tiny_backbone(), "alpha", seed=0)
    shutil.copytree(tmp_path / "alpha", tmp_path / "al pha")
    write_adapter(tmp_path, tiny_backbone(), "tiny", seed=0)
    adapters = AdapterFolder(tmp_path)
    loaded = adapters.load_all(make_bank())
    reasons = {one.name: one.reason for one in adapters.rejected()}

    assert [one.name for one in loaded] == ["alpha"]
    assert "is no adapter name" in reasons["al pha"]
    assert "is the base model's" in reasons["tiny"]


def test_model_without_room_rejects_all(tmp_path: Path) -> None:
    """A base model of one layer serves alone."""
    write_adapter(tmp_path, tiny_backbone(), "alpha", seed=0)
    adapters = AdapterFolder(tmp_path)

    assert adapters.load_all(None) == []
    assert "has one layer" in adapters.rejected()[0].reason


async def test_refused_load_leaves_the_engine_and_the_old_version(tmp_path: Path) -> None:
    """A bad adapter at run time is FAILED_PRECONDITION's error, listed until a load succeeds."""
    write_adapter(tmp_path, tiny_backbone(), "alpha", seed=0)
    adapters, bank = AdapterFolder(tmp_path), make_bank()
    adapters.load_all(bank)
    backbone = bank._backbone
    engine = LLMEngine(backbone, bank, max_sequences=2, context_tokens=128)
    engine.start()
    before = generate(engine, ["hello"], "alpha", max_tokens=8, progress=False)[0].text
    good = (tmp_path / "alpha" / CARD_FILE).read_text()
    edit(tmp_path / "alpha", scale=2.0)
    with pytest.raises(ArtifactTamperedError):
        await adapters.load(engine, "alpha")
    listed = [one.name for one in adapters.rejected()]
    during = generate(engine, ["hello"], "alpha", max_tokens=8, progress=False)[0].text
    (tmp_path / "alpha" / CARD_FILE).write_text(good)
    await adapters.load(engine, "alpha")
    with pytest.raises(InvalidRequestError, match="no adapter name"):
        await adapters.load(engine, "../alpha")
    with pytest.raises(NotFoundError, match="'beta'"):
        await adapters.load(engine, "beta")
    bank.load = None  # type: ignore[method-assign, assignment]
    with pytest.raises(ArtifactFormatError, match=r"cannot be loaded .TypeError"):
        await adapters.load(engine, "alpha")
    ended = engine.ended.done()
    engine.close(drain=True)

    assert before == during
    assert listed == ["alpha"]
    assert not ended


def test_adapter_name_has_no_path() -> None:
    """A path, an empty name and a long one are no names."""
    assert valid_adapter_name("a-1.b_c") == "a-1.b_c"
    for name in ("../x", "", "a/b", ".hidden", "x" * 65, "a\n"):
        with pytest.raises(InvalidRequestError):
            valid_adapter_name(name)
