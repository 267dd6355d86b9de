"""Adapters: sites in the frozen layers, the bank that pages adapters, and their artifacts."""

from bem.adapters.artifact import (
    Adapter,
    AdapterCard,
    read_adapter,
    read_adapter_card,
    save_adapter,
)
from bem.adapters.bank import AdapterBank
from bem.adapters.loaded import LoadedAdapter
from bem.adapters.row_codes import RowCodes
from bem.adapters.site import BemSite, install_sites

__all__ = [
    "Adapter",
    "AdapterBank",
    "AdapterCard",
    "BemSite",
    "LoadedAdapter",
    "RowCodes",
    "install_sites",
    "read_adapter",
    "read_adapter_card",
    "save_adapter",
]
