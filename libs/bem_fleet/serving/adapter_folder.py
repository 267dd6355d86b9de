"""Adapter folder of a mission: what is loaded from it, and what is refused with its reason.

A folder that cannot be served never keeps the base model and the other adapters from serving.
"""

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path

from bem.adapters.artifact import CARD_FILE, NAME_PATTERN, TENSORS_FILE
from bem.adapters.bank import AdapterBank
from bem.adapters.loaded import LoadedAdapter
from bem.adapters.peft_config import CONFIG as PEFT_CONFIG
from bem.engine import LLMEngine
from bem.errors import ArtifactFormatError, BemError, InvalidRequestError
from fleet import logs
from fleet.errors import NotFoundError
from fleet.mission import RejectedAdapter

_LOG = logs.get("serving.adapter_folder")
_VERSION_CHARS = 12
ONE_LAYER = "the base model has one layer; adapters need at least two"
"""Why a model without processes beside it has no adapter bank."""
Listener = Callable[[Mapping[str, str]], None]


class AdapterFolder:
    """Loads adapters from the sub-folders of one folder.

    Args:
        folder: Folder of the adapters; it may be missing.
        on_rejected: Receives the reason of each rejected folder by name, after every change.
    """

    def __init__(self, folder: Path, on_rejected: Listener = lambda reasons: None) -> None:  # noqa: ARG005
        self._folder = folder
        self._on_rejected = on_rejected
        self._reasons: dict[str, str] = {}

    def rejected(self) -> list[RejectedAdapter]:
        """Return the folders that are not served, sorted by name."""
        reasons = self._reasons.copy()
        return [RejectedAdapter(name, reasons[name]) for name in sorted(reasons)]

    def load_all(self, bank: AdapterBank | None, no_bank: str = ONE_LAYER) -> list[LoadedAdapter]:
        """Load every adapter of the folder and return those that can be served.

        Args:
            bank: Bank of the mission; None if the base model has no room for adapters.
            no_bank: Why there is no bank.
        """
        loaded = []
        for folder in sorted(self._folder.iterdir()) if self._folder.is_dir() else []:
            try:
                if self._is_adapter(folder):
                    loaded.append(_load(bank, folder, no_bank))
            except BemError as err:
                self._reject(folder.name, str(err))
            except Exception as err:  # noqa: BLE001 - whatever is in it, the others are served
                _LOG.error("adapter failed to load", adapter=folder.name, exc_info=err)
                self._reject(folder.name, f"cannot be loaded ({type(err).__name__}); see the log")
        for adapter in loaded:
            _LOG.info("adapter loaded", adapter=adapter.name, version=_short(adapter))
        return loaded

    async def load(self, engine: LLMEngine, name: str) -> LoadedAdapter:
        """Load one adapter.

        Args:
            engine: Engine that owns the bank.
            name: Name of the folder and on the card.

        Raises:
            InvalidRequestError: ``name`` is no adapter name; a path never is.
            NotFoundError: The folder has no such adapter.
            BemError: The adapter cannot be served.
        """
        folder = self._folder / valid_adapter_name(name)
        if CARD_FILE not in _file_names(folder):
            hint = "; it is a PEFT folder, import it" if (folder / PEFT_CONFIG).is_file() else ""
            raise NotFoundError(f"name: there is no adapter {name!r} in the adapter folder{hint}")
        try:
            loaded = await asyncio.wrap_future(engine.load_adapter(folder, name=name))
        except BemError as err:
            self._reject(name, str(err))
            raise
        except (OSError, RuntimeError, ValueError, TypeError, LookupError) as err:
            _LOG.error("adapter failed to load", adapter=name, exc_info=err)
            reason = f"adapter {name!r} cannot be loaded ({type(err).__name__}); see the log"
            self._reject(name, reason)
            raise ArtifactFormatError(reason) from err
        if self._reasons.pop(name, None) is not None:
            self._on_rejected(self._reasons)
        _LOG.info("adapter loaded", adapter=name, version=_short(loaded))
        return loaded

    def _is_adapter(self, folder: Path) -> bool:
        """Return whether a folder holds an adapter.

        Raises:
            ArtifactFormatError: It is meant to hold one and does not.
        """
        if folder.name.startswith(".") or not folder.is_dir():
            return False
        names = _file_names(folder)
        if CARD_FILE in names:
            return True
        if PEFT_CONFIG in names:
            raise ArtifactFormatError(
                f"{folder.name} is a PEFT folder; convert it with `fleetctl adapters import`"
            )
        if TENSORS_FILE in names:
            raise ArtifactFormatError(f"{folder.name} has no {CARD_FILE}; restore the file")
        return False

    def _reject(self, name: str, reason: str) -> None:
        self._reasons[name] = reason
        _LOG.warning("adapter rejected", adapter=name, reason=reason)
        self._on_rejected(self._reasons)


def _file_names(folder: Path) -> set[str]:
    """Return the names in a folder, links without a target included; none if it is missing.

    Raises:
        ArtifactFormatError: The folder cannot be read.
    """
    try:
        return {one.name for one in folder.iterdir()}
    except (FileNotFoundError, NotADirectoryError):
        return set()
    except OSError as err:
        raise ArtifactFormatError(
            f"{folder.name} cannot be read: {err.strerror}; change its permissions"
        ) from err


def valid_adapter_name(name: str) -> str:
    """Return ``name`` if it is an adapter name.

    Raises:
        InvalidRequestError: It is not; a path never is.
    """
    if not NAME_PATTERN.fullmatch(name):
        raise InvalidRequestError(
            "name",
            f"{name[:80]!r} is no adapter name; "
            "letters, digits, '.', '_' and '-' are allowed, at most 64",
        )
    return name


def _load(bank: AdapterBank | None, folder: Path, no_bank: str) -> LoadedAdapter:
    if bank is None:
        raise ArtifactFormatError(no_bank)
    if not NAME_PATTERN.fullmatch(folder.name):
        raise ArtifactFormatError(
            f"folder {folder.name[:80]!r} is no adapter name; letters, digits, '.', '_' and '-' "
            "are allowed, at most 64; rename it"
        )
    return bank.load(folder, name=folder.name)


def _short(adapter: LoadedAdapter) -> str:
    return adapter.version[:_VERSION_CHARS]
