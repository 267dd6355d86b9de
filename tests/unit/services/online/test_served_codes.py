"""Codes as adapters of an engine."""

from pathlib import Path

import torch
from bem.online.codebook import make_condition
from bem_fleet.services.online.served_codes import PREFIX, CodeAdapters, adapter_name, write_adapter

from tests.unit.services.online.hosts import FAMILY, OTHER, bank, code, engine_host


def test_same_code_gives_the_same_name_and_bytes(tmp_path: Path) -> None:
    """Name and files depend on bank and numbers alone."""
    name = adapter_name(bank(), code())
    for folder in ("a", "b"):
        write_adapter(tmp_path / folder, name, bank(), code())
    files = {one.name: one.read_bytes() for one in (tmp_path / "a").iterdir()}

    assert files == {one.name: one.read_bytes() for one in (tmp_path / "b").iterdir()}
    assert name == adapter_name(bank(), code()) != adapter_name(bank(), code(1))
    assert name.startswith(PREFIX)


async def test_codes_of_the_last_two_versions_stay_loaded(tmp_path: Path) -> None:
    """Requests in flight keep theirs; an older version's codes leave engine and folder."""
    keys = torch.randn(8, 8, generator=torch.Generator().manual_seed(0))
    empty = bank().empty_codebook()
    books = [empty.with_condition(make_condition(FAMILY, keys, code(n))) for n in range(3)]
    books[1] = books[1].with_condition(make_condition(OTHER, keys + 9, code(0)))
    with engine_host(tmp_path) as host:
        adapters = CodeAdapters(host, bank(), tmp_path / "codes")
        served = [await adapters.install(n, book) for n, book in enumerate(books)]
        await adapters.install(9, empty)
        loaded = {one.name for one in host.engine.adapters()}

    assert served[0].adapters[FAMILY] == served[1].adapters[OTHER]
    assert loaded == set(served[2].adapters.values())
    assert {one.name for one in (tmp_path / "codes").iterdir()} == loaded
