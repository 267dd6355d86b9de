"""Table of every RPC and HTTP route with the role that it needs, for ``docs/security.md``."""

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

from bem_fleet.services.gateway.app import make_app
from bem_fleet.services.gateway.route_roles import listed_routes
from bem_fleet.services.gateway.settings import GatewaySettings
from fleet.access.method_roles import OPEN_SERVICES, method_role
from google.protobuf.descriptor import MethodDescriptor

Row = tuple[str, str, str]


def rpc_methods(root: Path) -> Iterator[MethodDescriptor]:
    """Yield the methods of all services in the protos of a checkout, sorted by file."""
    protos = root / "protos"
    for file in sorted(protos.rglob("*.proto")):
        module = ".".join(file.relative_to(protos).with_suffix("").parts)
        generated = import_module(f"{module}_pb2")
        for service in generated.DESCRIPTOR.services_by_name.values():
            yield from service.methods


def access_rows(root: Path) -> Iterator[Row]:
    """Yield kind, name and role of every RPC and route."""
    yield ("interface", "RPC or route", "role")
    for method in rpc_methods(root):
        service = method.containing_service.full_name
        yield ("gRPC", f"`{service}/{method.name}`", method_role(method).label)
    for service in sorted(OPEN_SERVICES):
        yield ("gRPC", f"`{service}/*`", "open")
    for verb, path, role in listed_routes(make_app(GatewaySettings()).routes):
        label = "that of the method" if role.of_method else role.role.label
        yield ("HTTP", f"`{verb} {path}`", label)
