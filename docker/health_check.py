"""The images' HEALTHCHECK: whether the service of this container answers.

Alive is enough: whether it can do its work is readiness, which Kubernetes asks by itself.
"""

import os
import ssl
import sys
import urllib.request
from importlib import import_module

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

_LIMIT_S = 5.0


def address_of(service: str) -> str:
    """Return where ``service`` can be reached from inside its own container."""
    known = import_module(f"bem_fleet.services.{service}.settings")
    default = getattr(known, f"{service.capitalize()}Settings").model_fields["address"].default
    address = os.environ.get(f"BEM_{service.upper()}_ADDRESS") or str(default)
    return address.replace("0.0.0.0:", "127.0.0.1:").replace("[::]:", "[::1]:")


def answers_grpc(address: str) -> bool:
    """Return whether the server's own health entry says SERVING."""
    with grpc.insecure_channel(address) as channel:
        request = health_pb2.HealthCheckRequest()
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=_LIMIT_S)
        except grpc.RpcError:
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def answers_http(address: str, *, tls: bool = False) -> bool:
    """Return whether ``/healthz`` is a 200."""
    # From inside its own container: whose certificate it is does not matter, that it answers does.
    trust = ssl._create_unverified_context() if tls else None  # noqa: S323, SLF001
    url = f"http{'s' if tls else ''}://{address}/healthz"
    try:
        with urllib.request.urlopen(url, timeout=_LIMIT_S, context=trust) as answer:  # noqa: S310
            return bool(answer.status == 200)
    except OSError:
        return False


def main() -> int:
    """Return 0 if the service answers."""
    service = os.environ["BEM_SERVICE"]
    address = address_of(service)
    if service == "gateway":
        return 0 if answers_http(address, tls=bool(os.environ.get("BEM_GATEWAY_TLS"))) else 1
    return 0 if answers_grpc(address) else 1


if __name__ == "__main__":
    sys.exit(main())
