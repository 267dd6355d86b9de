"""Metrics adapter of an autoscaler: Prometheus' values as the metrics APIs of Kubernetes.

It serves what a HorizontalPodAutoscaler of the chart asks for: gauges of the pods of a selector
(`custom.metrics.k8s.io`), and the greatest value of a gauge (`external.metrics.k8s.io`).
Prometheus' own adapter is no module of the Go proxy.
"""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.cluster.client import CLIENTS
from tests.cluster.kubernetes_cli import run, wait_for
from tests.support.certificates import TestAuthority
from tests.support.prometheus import Prometheus

CUSTOM = "custom.metrics.k8s.io/v1beta2"
EXTERNAL = "external.metrics.k8s.io/v1beta1"
_NAME = "metrics-adapter"


def resources(group: str) -> dict[str, Any]:
    """Return the discovery document of a group."""
    kind = "MetricValueList" if group == CUSTOM else "ExternalMetricValueList"
    found = {"name": "pods/any" if group == CUSTOM else "any", "singularName": ""}
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": group,
        "resources": [{**found, "namespaced": True, "kind": kind, "verbs": ["get"]}],
    }


class MetricsSource:
    """Values of Prometheus in the form of the metrics APIs.

    Args:
        prometheus: Where the values come from.
    """

    def __init__(self, prometheus: Prometheus) -> None:
        self._prometheus = prometheus

    def of_pods(self, namespace: str, metric: str, selector: str) -> dict[str, Any]:
        """Return a gauge of the pods that a selector finds."""
        listed = run("kubectl", "-n", namespace, "get", "pods", "-l", selector, "-o", "name")
        pods = {line.removeprefix("pod/") for line in listed.split()}
        items = [
            {
                "describedObject": {
                    "kind": "Pod",
                    "apiVersion": "v1",
                    "namespace": namespace,
                    "name": one["metric"]["pod"],
                },
                "metric": {"name": metric},
                "timestamp": _now(),
                "value": one["value"][1],
            }
            for one in self._prometheus.query(f'{metric}{{namespace="{namespace}"}}')
            if one["metric"]["pod"] in pods
        ]
        return _listed("MetricValueList", CUSTOM, items)

    def greatest(self, namespace: str, metric: str, selector: str) -> dict[str, Any]:
        """Return the greatest value of a gauge; ``selector`` is ``label=value``."""
        label, _, value = selector.partition("=")
        query = f'max({metric}{{namespace="{namespace}",{label}="{value}"}})'
        items = [
            {
                "metricName": metric,
                "metricLabels": {},
                "timestamp": _now(),
                "value": one["value"][1],
            }
            for one in self._prometheus.query(query)
        ]
        return _listed("ExternalMetricValueList", EXTERNAL, items)

    def answer(self, target: str) -> dict[str, Any] | None:
        """Return the answer to a request; None if there is nothing at its path."""
        asked = urlsplit(target)
        selector = parse_qs(asked.query).get("labelSelector", [""])[0]
        match unquote(asked.path).strip("/").split("/"):
            case ["apis", group, version] if f"{group}/{version}" in {CUSTOM, EXTERNAL}:
                return resources(f"{group}/{version}")
            case ["apis", _, _, "namespaces", namespace, "pods", "*", metric]:
                return self.of_pods(namespace, metric, selector)
            case ["apis", _, _, "namespaces", namespace, metric]:
                return self.greatest(namespace, metric, selector)
        return None


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _listed(kind: str, group: str, items: list[dict[str, Any]]) -> dict[str, Any]:
    return {"kind": kind, "apiVersion": group, "metadata": {}, "items": items}


def _handler(source: MetricsSource) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        """Answers the API server."""

        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            answer = source.answer(self.path)
            content = json.dumps(answer or {}).encode()
            self.send_response(404 if answer is None else 200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Print nothing: discovery asks every few seconds."""

    return Handler


def _registration(node: str, port: int) -> dict[str, Any]:
    """Return the Service, its endpoint on the node, and what leads to it."""
    named = {"namespace": CLIENTS, "name": _NAME}
    return {
        "apiVersion": "v1",
        "kind": "List",
        "items": [
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": named,
                "spec": {"ports": [{"name": "https", "port": 443, "targetPort": port}]},
            },
            {
                "apiVersion": "discovery.k8s.io/v1",
                "kind": "EndpointSlice",
                "metadata": {**named, "labels": {"kubernetes.io/service-name": _NAME}},
                "addressType": "IPv4",
                "ports": [{"name": "https", "port": port}],
                "endpoints": [{"addresses": [node]}],
            },
            *(
                {
                    "apiVersion": "apiregistration.k8s.io/v1",
                    "kind": "APIService",
                    "metadata": {"name": _api(one)},
                    "spec": {
                        "group": one.partition("/")[0],
                        "version": one.partition("/")[2],
                        "groupPriorityMinimum": 100,
                        "versionPriority": 100,
                        "insecureSkipTLSVerify": True,
                        "service": {**named, "port": 443},
                    },
                }
                for one in (CUSTOM, EXTERNAL)
            ),
        ],
    }


def _api(group: str) -> str:
    """Return the name of a group's APIService."""
    name, _, version = group.partition("/")
    return f"{version}.{name}"


@contextmanager
def metrics_adapter(prometheus: Prometheus, folder: Path) -> Iterator[None]:
    """Serve metrics to the cluster's autoscalers until the block ends.

    Args:
        prometheus: Where the values come from.
        folder: Folder for the server's certificate.
    """
    path = "jsonpath={.items[0].status.addresses[?(@.type=='InternalIP')].address}"
    node = run("kubectl", "get", "nodes", "-l", "type!=fake", "-o", path)
    issued = TestAuthority(folder / "authority").issue(folder / "server")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(issued / "tls.crt", issued / "tls.key")
    server = ThreadingHTTPServer((node, 0), _handler(MetricsSource(prometheus)))
    server.socket = context.wrap_socket(server.socket, server_side=True)
    serving = threading.Thread(target=server.serve_forever, name=_NAME)
    serving.start()
    manifest = json.dumps(_registration(node, server.server_address[1]))
    try:
        run("kubectl", "apply", "-f", "-", stdin=manifest)
        wait_for(_is_available, "the metrics API", limit_s=60)
        yield
    finally:
        run("kubectl", "delete", "--ignore-not-found", "-f", "-", stdin=manifest)
        server.shutdown()
        serving.join()
        server.server_close()


def _is_available() -> bool:
    path = "jsonpath={.items[*].status.conditions[?(@.type=='Available')].status}"
    names = (_api(CUSTOM), _api(EXTERNAL))
    return run("kubectl", "get", "apiservice", *names, "-o", path) == "True True"
