"""Base models of the Hugging Face hub, downloaded into the cache where the hub can be reached."""

import re
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    RepositoryNotFoundError,
)

from bem.errors import BackboneNotFoundError

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
# No pickles, no code, no images: what a model folder is loaded from.
_FILES = ["*.safetensors", "*.json", "*.jinja", "*.model", "merges.txt", "vocab.txt"]


def is_hub_name(source: str) -> bool:
    """Return whether ``source`` has the form ``owner/name`` of a hub repository."""
    return _NAME.fullmatch(source) is not None


def download_model(name: str, cache: Path, endpoint: str | None = None) -> Path:
    """Return the folder of a hub model, downloaded if it is not in the cache.

    Args:
        name: Repository, ``owner/name``.
        cache: Folder of downloaded models.
        endpoint: URL of the hub; None takes the default, which ``HF_ENDPOINT`` sets.

    Raises:
        BackboneNotFoundError: There is no such model, or the hub cannot be reached.
    """
    try:
        folder = snapshot_download(
            name, cache_dir=cache / "hub", allow_patterns=_FILES, endpoint=endpoint
        )
    except (GatedRepoError, RepositoryNotFoundError, HFValidationError) as err:
        raise BackboneNotFoundError(
            f"backbone: the hub does not give {name}: {_first_line(err)}; correct the name, or set "
            "HF_TOKEN"
        ) from err
    except Exception as err:  # the transport below the client has its own errors
        raise BackboneNotFoundError(
            f"backbone: {name} is not on this machine and the hub cannot be reached: "
            f"{_first_line(err)}; download it elsewhere and give its folder"
        ) from err
    return Path(folder)


def _first_line(err: Exception) -> str:
    return next((line for line in str(err).splitlines() if line.strip()), type(err).__name__)[:200]
