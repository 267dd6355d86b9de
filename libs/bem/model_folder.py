"""Model folders: a base model of any source as safetensors, with a chat template of its own.

A base model that was only pretrained has no chat template, so that chats, training and the safety
adapter have no prompts. The template is a file of the folder and so a part of the model's digest:
adapters that were trained with it are refused on the same weights with another one.
"""

import shutil
import tempfile
from pathlib import Path

from transformers import AutoConfig

from bem.backbone import DIGESTED_SUFFIXES, load_tokenizer, prepare_folder
from bem.errors import InvalidRequestError, InvalidSettingError
from bem.prompt_encoding import PromptEncoder

TEMPLATE_FILE = "chat_template.jinja"
"""File of a model folder in which transformers keeps the chat template."""
_PROBE = ({"role": "user", "content": "Hello"},)


def write_model_folder(
    source: str, out: Path, *, cache: Path, chat_template: Path | None = None
) -> Path:
    """Write a base model as a folder that every command takes; blocks while it is de-quantised.

    Args:
        source: As ``bem.backbone.load_backbone`` takes it.
        out: Folder to write; it appears when it is complete.
        cache: Folder of the de-quantised copy of a gguf file, and for downloaded models.
        chat_template: Jinja file that takes the place of the model's own template; None keeps that.

    Raises:
        BackboneNotFoundError: There is no model at ``source``, or its files are broken.
        InvalidSettingError: ``out`` exists, or the template cannot be used with the model.
        UnsupportedBackboneError: The model cannot be served exactly.
    """
    if out.exists():
        raise InvalidSettingError(f"out: {out} exists; remove it or choose another folder")
    folder, name, _ = prepare_folder(source, cache)
    template = None if chat_template is None else _read_template(chat_template, folder, name)
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f"{out.name}-", dir=out.parent))
    try:
        for path in sorted(folder.iterdir()):
            if path.is_file() and path.suffix in DIGESTED_SUFFIXES:
                shutil.copyfile(path, partial / path.name)
        if template is not None:
            (partial / TEMPLATE_FILE).write_text(template, encoding="utf-8")
        partial.chmod(0o755)
        _put(partial, out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return out


def _put(made: Path, out: Path) -> None:
    """Rename a folder; ``out`` may have appeared while it was made."""
    try:
        made.rename(out)
    except OSError as err:
        if not out.exists():
            raise
        raise InvalidSettingError(
            f"out: {out} appeared meanwhile; remove it or choose another folder"
        ) from err


def _read_template(path: Path, folder: Path, name: str) -> str:
    """Return a chat template that renders a message and begins as the tokenizer begins a text."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as err:
        raise InvalidSettingError(f"chat_template: {path} cannot be read: {err}") from err
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    tokenizer = load_tokenizer(folder, name, config.vocab_size)
    encoder = PromptEncoder(tokenizer)
    begin = encoder.begin_ids
    tokenizer.chat_template = text
    try:
        ids = encoder.encode_chat(_PROBE)
    except InvalidRequestError as err:
        raise InvalidSettingError(f"chat_template: {path}: {err}") from err
    if not ids:
        raise InvalidSettingError(
            f"chat_template: {path} renders a message as no token; correct it"
        )
    if ids[: len(begin)] != begin:
        raise InvalidSettingError(
            f"chat_template: {path} does not begin with {tokenizer.decode(begin)}, as texts of "
            f"{name} do; write {{{{ bos_token }}}} first"
        )
    return text
