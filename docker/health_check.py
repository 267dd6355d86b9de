"""HEALTHCHECK of the images: liveness of the service in this container.

Readiness is not checked here; Kubernetes has a probe of its own for it.
"""

import os
import ssl
import sys
import urllib.request
from importlib import import_module

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

_TIMEOUT_S = 5.0


def address_of(service: str) -> str:
    """Return the address at which ``service`` answers probes inside its container."""
    if plain := os.environ.get(f"BEM_{service.upper()}_HEALTH_ADDRESS"):
        return _on_loopback(plain)
    module = import_module(f"bem_fleet.services.{service}.settings")
    default = getattr(module, f"{service.capitalize()}Settings").model_fields["address"].default
    address = os.environ.get(f"BEM_{service.upper()}_ADDRESS") or str(default)
    return _on_loopback(address)


def _on_loopback(address: str) -> str:
    return address.replace("0.0.0.0:", "127.0.0.1:").replace("[::]:", "localhost:")


def is_grpc_healthy(address: str) -> bool:
    """Return whether the server reports SERVING for itself."""
    with grpc.insecure_channel(address) as channel:
        request = health_pb2.HealthCheckRequest()
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=_TIMEOUT_S)
        except grpc.RpcError:
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def is_http_healthy(address: str, *, tls: bool = False) -> bool:
    """Return whether ``/healthz`` returns 200."""
    # The check runs inside the container, so that the certificate's identity does not matter.
    context = ssl._create_unverified_context() if tls else None  # noqa: S323, SLF001
    url = f"http{'s' if tls else ''}://{address}/healthz"
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_S, context=context) as answer:  # noqa: S310
            return bool(answer.status == 200)
    except OSError:
        return False


def main() -> int:
    """Return 0 if the service is alive."""
    service = os.environ["BEM_SERVICE"]
    address = address_of(service)
    if service == "gateway":
        return 0 if is_http_healthy(address, tls=bool(os.environ.get("BEM_GATEWAY_TLS"))) else 1
    return 0 if is_grpc_healthy(address) else 1


if __name__ == "__main__":
    sys.exit(main())
