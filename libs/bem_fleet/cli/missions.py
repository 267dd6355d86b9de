"""``fleetctl missions``: missions as the orchestrator sees and as they describe them."""

from collections.abc import Callable, Iterable
from typing import Annotated

import typer
from bemfleet.fleet.v1 import fleet_pb2 as fleet
from bemfleet.fleet.v1 import fleet_pb2_grpc as fleet_rpc
from bemfleet.mission.v1 import mission_pb2 as pb
from bemfleet.mission.v1 import mission_pb2_grpc as rpc
from fleet.access.own_key import Metadata

from bem_fleet.cli.application import NO, YES
from bem_fleet.cli.operator_channel import calls_services, service_channel
from bem_fleet.cli.reports import Report, Table

_TIMEOUT_S = 30.0

app = typer.Typer(
    no_args_is_help=True,
    help="List and describe missions, their integration and their GPUs. Exit code 0 if it is done, "
    "1 if it is refused, 2 if the service cannot be reached.",
)


@app.command("list")
@calls_services
def list_missions(
    address: Annotated[str, typer.Option(help="host:port of the orchestrator")] = "",
) -> Report:
    """Print phase, pods and canary of each mission."""

    def call(stub: fleet_rpc.FleetServiceStub, key: Metadata) -> Report:
        found = stub.ListMissions(fleet.ListMissionsRequest(), timeout=_TIMEOUT_S, metadata=key)
        return Report(found, [_table(found.missions)])

    return _ask_orchestrator(address, call)


@app.command("describe")
@calls_services
def describe(
    mission: str,
    address: Annotated[str, typer.Option(help="host:port of the mission's sidecar")] = "",
) -> Report:
    """Print base model, methods and warnings of a mission."""
    with service_channel(mission, address) as (channel, key):
        stub = rpc.MissionServiceStub(channel)
        found = stub.Describe(pb.DescribeRequest(), timeout=_TIMEOUT_S, metadata=key)
    heading = ("method", "kind", "model field", "text fields")
    lines = [
        f"{found.name} {found.version}: {found.service}",
        f"base model: {found.base_model} ({found.weights}), {found.base_model_digest[:12]}",
    ]
    warnings = [f"warning: {text}" for text in found.warnings]
    return Report(found, [*lines, Table([heading, *map(_method_row, found.methods)]), *warnings])


@app.command("graph")
@calls_services
def graph(
    address: Annotated[str, typer.Option(help="host:port of the orchestrator")] = "",
) -> Report:
    """Print the calls between missions and whether they work."""

    def call(stub: fleet_rpc.FleetServiceStub, key: Metadata) -> Report:
        request = fleet.GetIntegrationGraphRequest()
        found = stub.GetIntegrationGraph(request, timeout=_TIMEOUT_S, metadata=key)
        rows = [("from", "to", "interface", "healthy", "reason")]
        for one in found.edges:
            # `from` is a word of the language.
            begin, healthy = str(getattr(one, "from")), "yes" if one.healthy else "no"
            rows.append((begin, one.to, one.interface, healthy, one.reason))
        return Report(found, [Table(rows)])

    return _ask_orchestrator(address, call)


@app.command("gpus")
@calls_services
def gpus(
    address: Annotated[str, typer.Option(help="host:port of the orchestrator")] = "",
) -> Report:
    """Print the nodes with GPUs, and what is assigned to which mission."""

    def call(stub: fleet_rpc.FleetServiceStub, key: Metadata) -> Report:
        found = stub.GetPlan(fleet.GetPlanRequest(), timeout=_TIMEOUT_S, metadata=key)
        nodes = [("node", "product", "GiB", "GPUs", "assigned")]
        for node in found.nodes:
            counts = (f"{node.memory_gib:g}", str(node.gpus), str(node.assigned))
            nodes.append((node.name, node.product, *counts))
        wishes = [("mission", "request", "GPUs", "pods", "placed", "why not")]
        for one in found.assignments:
            placed = ", ".join(f"{name} {count}" for name, count in sorted(one.placed.items()))
            counts = (str(one.gpus), str(one.pods), placed)
            wishes.append((one.mission, one.gpu_request, *counts, one.unmet_message))
        parts = [Table(nodes), Table(wishes)] if found.nodes or found.assignments else []
        return Report(found, parts or ["no node has a GPU, and no mission asks for one"])

    return _ask_orchestrator(address, call)


def fleet_status() -> Report:
    """Return missions and totals of a fleet; exit code 0 if every mission runs.

    Raises:
        UnavailableError: The orchestrator cannot be reached.
        grpc.RpcError: It refuses.
    """

    def call(stub: fleet_rpc.FleetServiceStub, key: Metadata) -> Report:
        listed = stub.ListMissions(fleet.ListMissionsRequest(), timeout=_TIMEOUT_S, metadata=key)
        totals = stub.GetFleetStatus(
            fleet.GetFleetStatusRequest(), timeout=_TIMEOUT_S, metadata=key
        )
        healthy = all(one.phase in ("Running", "Stopped") for one in listed.missions)
        used, unmet = f"{totals.gpus_assigned} of {totals.gpus}", totals.gpu_requests_unmet
        lines = [
            f"GPUs: {used} assigned, {unmet} requests unmet",
            f"canaries: {totals.canaries}; failing edges: {totals.edges_unhealthy}",
            f"healthy: {'yes' if healthy else 'no'}",
        ]
        data = {"healthy": healthy, "missions": list(listed.missions), "totals": totals}
        return Report(data, [_table(listed.missions), *lines], YES if healthy else NO)

    return _ask_orchestrator("", call)


def _ask_orchestrator(
    address: str, call: Callable[[fleet_rpc.FleetServiceStub, Metadata], Report]
) -> Report:
    with service_channel("orchestrator", address) as (channel, key):
        return call(fleet_rpc.FleetServiceStub(channel), key)


def _table(missions: Iterable[fleet.Mission]) -> Table:
    heading = ("mission", "phase", "priority", "ready", "canary", "weight", "reason")
    return Table([heading, *map(_mission_row, missions)])


def _mission_row(one: fleet.Mission) -> tuple[str, ...]:
    ready = f"{one.ready_replicas}/{one.replicas}"
    failed = [two for two in one.conditions if two.status == "False"]
    reason = "; ".join(two.message or two.reason for two in failed)
    if not one.HasField("canary"):
        return (one.name, one.phase, one.priority, ready, "-", "-", reason)
    canary = f"{one.canary.candidate} {one.canary.phase}"
    return (one.name, one.phase, one.priority, ready, canary, f"{one.canary.weight} %", reason)


def _method_row(one: pb.MethodDescription) -> tuple[str, ...]:
    kinds = {
        (False, False): "unary",
        (False, True): "stream of answers",
        (True, False): "stream of requests",
        (True, True): "both streams",
    }
    kind = kinds[one.client_streaming, one.server_streaming]
    texts = ", ".join(map(str, one.text_fields))
    return (one.name.rpartition("/")[2], kind, one.model_field or "-", texts or "-")
