"""Calls of a command to a service: of this machine, at an address, or in a cluster.

An address that is given is called as it is: plain, or with the certificate that a variable names,
and with the operator's key. With ``--context``, ``--namespace`` or ``--release`` the service is
found in a cluster, its port is forwarded, and key and certificate are those of the release. Without
any of these it is the service of this machine's fleet.
"""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from inspect import Parameter
from pathlib import Path
from typing import Annotated, ParamSpec

import grpc
import typer
from fleet.access.own_key import Metadata, bearer
from fleet.certificates import (
    Certificate,
    CertificateError,
    CertificateFolder,
    channel_credentials,
)
from fleet.errors import InvalidArgumentError, UnavailableError, details_of
from fleet.wire import AUTHORIZATION

from bem_fleet.cli.application import NO
from bem_fleet.cli.cluster import Cluster
from bem_fleet.cli.local.plan import Plan
from bem_fleet.cli.operator_key import operator_metadata
from bem_fleet.cli.reports import JSON, Report, print_report, with_options
from bem_fleet.operator_key import VARIABLE as KEY_VARIABLE

_UNREACHABLE = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
P = ParamSpec("P")

VARIABLE = "FLEETCTL_TLS_FOLDER"
"""Environment variable with a folder of ``tls.crt``, ``tls.key`` and ``ca.crt``."""

_cluster: ContextVar[Cluster | None] = ContextVar("cluster", default=None)


def _option(name: str, flags: tuple[str, ...], text: str, variable: str) -> Parameter:
    option = typer.Option(*flags, help=text, envvar=variable, show_envvar=False)
    annotation = Annotated[str, option]
    return Parameter(name, Parameter.KEYWORD_ONLY, default="", annotation=annotation)


_CLUSTER_OPTIONS = (
    _option("context", ("--context",), "kubectl context of a cluster", "FLEETCTL_CONTEXT"),
    _option(
        "namespace",
        ("--namespace", "-n"),
        "namespace of the release in the cluster",
        "FLEETCTL_NAMESPACE",
    ),
    _option("release", ("--release",), "release, if the namespace has several", "FLEETCTL_RELEASE"),
)


@dataclass(frozen=True)
class Reached:
    """A service that can be called.

    Attributes:
        address: Address of the service, ``host:port`` or ``unix:/path``.
        metadata: Key of the caller; empty for none.
        certificate: Certificate for TLS; None for a plain connection.
        tls: Whether the service speaks TLS.
    """

    address: str
    metadata: Metadata
    certificate: Certificate | None = None
    tls: bool = False


def chosen_cluster() -> Cluster | None:
    """Return the cluster that the command's options name; None for this machine."""
    return _cluster.get()


def calls_services(command: Callable[P, Report]) -> Callable[P, int]:
    """Give a command ``--json``, ``--context``, ``--namespace`` and ``--release``.

    Its report is printed and its exit code returned; a refusal by a service is exit code 1.
    """

    def run(*arguments: P.args, **options: P.kwargs) -> int:
        as_json = bool(options.pop("as_json", False))
        words = [str(options.pop(one.name, "")) for one in _CLUSTER_OPTIONS]
        token = _cluster.set(Cluster(*words) if any(words) else None)
        try:
            report = command(*arguments, **options)
        except grpc.RpcError as err:
            details = details_of(err)
            refusal = {"error": {"code": details.code.name, "message": details.message}}
            if not as_json:
                print(f"{details.code.name}: {details.message}", file=sys.stderr)
            report = Report(refusal, [], NO)
        finally:
            _cluster.reset(token)
        return print_report(report, as_json=as_json)

    return with_options(command, run, JSON, *_CLUSTER_OPTIONS)


def open_operator_channel(address: str, certificate: Certificate | None = None) -> grpc.Channel:
    """Open a channel to a service; with TLS if there is a certificate or the variable names one.

    Args:
        address: Address of the service, ``host:port`` or ``unix:/path``.
        certificate: Certificate for TLS.

    Raises:
        InvalidArgumentError: The folder that the variable names holds no valid certificate.
    """
    certificate = certificate or _named_certificate()
    if certificate is None or address.startswith("unix:"):
        return grpc.insecure_channel(address)
    return grpc.secure_channel(address, channel_credentials(certificate))


@contextmanager
def reach(service: str, address: str = "", *, key: str = "operator") -> Iterator[Reached]:
    """Find a service, and keep it reachable while the body runs.

    Args:
        service: Name of the service, such as ``orchestrator``, or of a mission.
        address: Address that the caller gives; empty for the service of the cluster that the
            command names, or of this machine.
        key: Name of the release's key in a cluster: ``operator`` or ``user``.

    Raises:
        InvalidArgumentError: No such service, or a file that a variable names cannot be used.
        UnavailableError: The cluster cannot be reached.
    """
    cluster = chosen_cluster()
    if address or cluster is None:
        if not address and service not in (names := [one.name for one in Plan().services]):
            raise InvalidArgumentError(
                "mission",
                f"{service!r} is no service of this machine; services: {', '.join(sorted(names))}",
            )
        address = address or Plan().address(service)
        yield Reached(address, operator_metadata(address) if key == "operator" else ())
        return
    found = cluster.service(service)
    metadata = (
        operator_metadata("")
        if os.environ.get(KEY_VARIABLE) and key == "operator"
        else ((AUTHORIZATION, bearer(cluster.key(found, key))),)
    )
    certificate = None
    if found.tls and service != "gateway":
        certificate = _named_certificate() or cluster.certificate(found)
    with cluster.forwarded(found) as forwarded:
        yield Reached(forwarded, metadata, certificate, found.tls)


@contextmanager
def service_channel(
    service: str, address: str = "", *, key: str = "operator"
) -> Iterator[tuple[grpc.Channel, Metadata]]:
    """Open a channel for the calls in the body, with the key's metadata; a refusal stays gRPC's.

    Args:
        service: Name of the service or mission.
        address: Address that the caller gives; may be empty.
        key: Name of the release's key in a cluster.

    Raises:
        InvalidArgumentError: As in ``reach``.
        UnavailableError: The service cannot be reached.
    """
    with (
        reach(service, address, key=key) as reached,
        open_operator_channel(reached.address, reached.certificate) as channel,
    ):
        try:
            yield channel, reached.metadata
        except grpc.RpcError as err:
            details = details_of(err)
            if details.code in _UNREACHABLE:
                where = f"{service} at {reached.address}"
                raise UnavailableError(f"{where}: {details.message}") from err
            raise


def _named_certificate() -> Certificate | None:
    named = os.environ.get(VARIABLE)
    if not named:
        return None
    try:
        return CertificateFolder(Path(named)).current
    except CertificateError as err:
        raise InvalidArgumentError(VARIABLE, str(err)) from err
