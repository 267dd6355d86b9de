"""Tests of model folders: weights as they are, and a chat template that fits the model."""

from pathlib import Path

import pytest
from bem import model_folder
from bem.backbone import load_backbone, prepare_folder
from bem.errors import InvalidSettingError
from bem.model_folder import write_model_folder
from bem.testing import tiny_backbone
from transformers import AutoTokenizer

from tests.support.family_models import family_backbone
from tests.support.tiny_models import save_folder

TEMPLATE = "{% for message in messages %}[{{ message.role }}]{{ message.content }}\n{% endfor %}"


def base_model(folder: Path, bos: str | None = None) -> Path:
    """Save a tiny Gemma without a chat template; its texts begin with ``bos``."""
    save_folder(folder, family_backbone("gemma3").model)
    (folder / "chat_template.jinja").unlink()
    if bos:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        tokenizer.bos_token, tokenizer.add_bos_token = bos, True
        tokenizer.save_pretrained(folder)
    return folder


def write(tmp_path: Path, source: Path, template: str | None = TEMPLATE) -> Path:
    """Write the folder ``out`` with a template."""
    file = None
    if template is not None:
        file = tmp_path / "template.jinja"
        file.write_text(template)
    return write_model_folder(
        str(source), tmp_path / "out", cache=tmp_path / "cache", chat_template=file
    )


def test_weights_stay_and_the_template_renders(tmp_path: Path) -> None:
    """Only the digest differs: the template is a part of the model."""
    source = base_model(tmp_path / "base")
    before, after = (
        load_backbone(str(one), cache=tmp_path / "cache")
        for one in (source, write(tmp_path, source))
    )

    assert before.tokenizer.chat_template is None
    assert after.tokenizer.chat_template == TEMPLATE
    assert after.digest != before.digest
    for name, weight in before.model.state_dict().items():
        assert weight.equal(after.model.state_dict()[name])


def test_a_template_takes_the_place_of_the_models_own(tmp_path: Path) -> None:
    """Without one the model keeps its own."""
    source = save_folder(tmp_path / "chat", tiny_backbone().model)
    own = AutoTokenizer.from_pretrained(source).chat_template
    kept = write(tmp_path, source, None).rename(tmp_path / "kept")

    assert AutoTokenizer.from_pretrained(kept).chat_template == own != TEMPLATE
    assert AutoTokenizer.from_pretrained(write(tmp_path, source)).chat_template == TEMPLATE


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{% for %}", "refuses them"),
        ("{{ raise_exception('no') }}", "refuses them: no"),
        ("", "has no chat template"),
        ("{# nothing #}", "renders a message as no token"),
    ],
)
def test_a_template_that_renders_nothing_is_refused(
    tmp_path: Path, template: str, message: str
) -> None:
    """No folder is left behind."""
    with pytest.raises(InvalidSettingError, match=message):
        write(tmp_path, base_model(tmp_path / "base"), template)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "template.jinja"]


def test_a_template_must_begin_as_texts_of_the_model_do(tmp_path: Path) -> None:
    """Gemma without its first token writes nonsense, so that a template without it is refused."""
    source = base_model(tmp_path / "base", bos="<|im_start|>")
    with pytest.raises(InvalidSettingError, match=r"write \{\{ bos_token \}\} first"):
        write(tmp_path, source)
    folder = write(tmp_path, source, "{{ bos_token }}" + TEMPLATE)

    assert (folder / "chat_template.jinja").read_text().startswith("{{ bos_token }}")


def test_a_folder_is_not_replaced(tmp_path: Path) -> None:
    """What is served from it would change under its name."""
    source = base_model(tmp_path / "base")
    write(tmp_path, source)
    with pytest.raises(InvalidSettingError, match=r"out: .* exists"):
        write(tmp_path, source)


def test_a_folder_that_appears_meanwhile_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second of two writers is told; what the first wrote stays, and no part is left."""
    source = base_model(tmp_path / "base")

    def prepare(name: str, cache: Path) -> tuple[Path, str, str]:
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "of_another_writer").touch()
        return prepare_folder(name, cache)

    monkeypatch.setattr(model_folder, "prepare_folder", prepare)

    with pytest.raises(InvalidSettingError, match=r"out: .* appeared meanwhile"):
        write(tmp_path, source)

    assert [one.name for one in (tmp_path / "out").iterdir()] == ["of_another_writer"]
    assert not list(tmp_path.glob("out-*"))
