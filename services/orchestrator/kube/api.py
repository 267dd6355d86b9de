"""Kubernetes API client: JSON requests, watches, and errors classified by what to do.

It uses the Kubernetes client's ``rest_client`` for connections, TLS and credentials; that layer
is semi-private and pinned by ``tests/unit/services/orchestrator/kube/test_api.py``.
"""

import json
from collections.abc import AsyncIterator, Mapping
from typing import Any, TypeAlias
from urllib.parse import urlencode

import aiohttp
from kubernetes.aio import client, config
from prometheus_client import Counter

Object: TypeAlias = dict[str, Any]
REQUESTS = Counter(
    "bem_orchestrator_api_requests_total",
    "Requests to the API server, by verb, resource and status; a watch counts once.",
    ["verb", "resource", "status"],
)
MANAGER = "bem-orchestrator"
_CONTENT = {
    "apply": "application/apply-patch+yaml",
    "merge": "application/merge-patch+json",
    "strategic": "application/strategic-merge-patch+json",
}


class KubeError(Exception):
    """A request to the API server failed.

    Attributes:
        status: HTTP status code; 0 without a response.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class ConflictError(KubeError):
    """The object has changed since it was read, or another manager owns a field; read it again."""


class ObjectNotFoundError(KubeError):
    """The object or resource does not exist."""


class GoneError(KubeError):
    """The resource version of a watch has expired; list again."""


class RejectedError(KubeError):
    """Schema, admission or permissions reject the request; a retry alone does not help."""


class InvalidError(RejectedError):
    """The object is invalid; the message names the field."""


class UnreachableError(KubeError):
    """The API server does not respond or is overloaded; retry."""


_ERRORS: Mapping[int, type[KubeError]] = {
    400: InvalidError,
    401: RejectedError,
    403: RejectedError,
    404: ObjectNotFoundError,
    409: ConflictError,
    410: GoneError,
    422: InvalidError,
}


class KubeApi:
    """Client of one API server.

    Args:
        configuration: Host and credentials; a token file is read again when it changes.
    """

    def __init__(self, configuration: client.Configuration) -> None:
        self.client = client.ApiClient(configuration)
        self.host: str = configuration.host

    async def close(self) -> None:
        """Close the connections."""
        await self.client.close()

    async def list(self, path: str, **query: str) -> tuple[list[Object], str]:
        """Return all objects under ``path`` and their resource version; raises ``KubeError``."""
        # Version 0 is answered from the API server's cache instead of by a quorum read of etcd.
        response = await self._call("GET", path, "list", query={**query, "resourceVersion": "0"})
        return response.get("items") or [], response["metadata"]["resourceVersion"]

    async def get(self, path: str) -> Object:
        """Return one object; raises ``KubeError``."""
        return await self._call("GET", path, "get")

    async def create(self, path: str, body: Object) -> Object:
        """Create an object under ``path``; raises ``KubeError``."""
        return await self._call("POST", path, "create", body=body)

    async def replace(self, path: str, body: Object) -> Object:
        """Replace the object at the resource version in ``body``; raises ``KubeError``."""
        return await self._call("PUT", path, "update", body=body)

    async def patch(self, path: str, body: Object, how: str, **query: str) -> Object:
        """Patch an object.

        Args:
            path: Path of the object or of a subresource.
            body: The patch; with ``metadata.resourceVersion`` it fails on any other version.
            how: Patch type: ``apply`` (server-side, forced), ``merge`` or ``strategic``.
            query: Further query parameters.

        Raises:
            KubeError: The request failed; the subclass tells how.
        """
        query = {"fieldManager": MANAGER, **query}
        if how == "apply":
            query["force"] = "true"
        return await self._call("PATCH", path, how, body=body, query=query, content=_CONTENT[how])

    async def delete(self, path: str) -> None:
        """Delete an object; an object that does not exist is not an error."""
        try:
            await self._call("DELETE", path, "delete", query={"propagationPolicy": "Background"})
        except ObjectNotFoundError:
            return

    async def watch(self, path: str, version: str, **query: str) -> AsyncIterator[Object]:
        """Yield events after ``version`` until the server ends the watch; raises ``KubeError``."""
        parameters = {
            **query,
            "watch": "true",
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": "300",
        }
        response = await self._send("GET", path, "watch", query=parameters)
        try:
            async for line in response.content:
                event: Object = json.loads(line)
                if event["type"] == "ERROR":
                    raise _error(event["object"].get("code", 500), event["object"])
                yield event
        except (aiohttp.ClientError, TimeoutError, ConnectionError) as err:
            raise UnreachableError(0, f"watch of {path} interrupted: {err}") from err
        finally:
            response.close()

    async def _call(
        self,
        method: str,
        path: str,
        verb: str,
        *,
        body: Object | None = None,
        query: Mapping[str, str] | None = None,
        content: str = "application/json",
    ) -> Object:
        """Send one request and return its JSON.

        Raises:
            KubeError: One of its subclasses, by status; ``UnreachableError`` without an answer.
        """
        response = await self._send(method, path, verb, body=body, query=query, content=content)
        try:
            answer: Object = json.loads(await response.read())
        except (aiohttp.ClientError, TimeoutError, ConnectionError, ValueError) as err:
            raise UnreachableError(0, f"{method} {path}: {err}") from err
        return answer

    async def _send(
        self,
        method: str,
        path: str,
        verb: str,
        *,
        body: Object | None = None,
        query: Mapping[str, str] | None = None,
        content: str = "application/json",
    ) -> aiohttp.ClientResponse:
        headers = {"Accept": "application/json", "Content-Type": content, "User-Agent": MANAGER}
        resource = _resource(path)
        timeout = aiohttp.ClientTimeout(total=None if verb == "watch" else 30, sock_connect=5)
        try:
            await self.client.update_params_for_auth(
                headers, [], ["BearerToken"], path, method, body
            )
            url = f"{self.host}{path}" + (f"?{urlencode(query)}" if query else "")
            answer = await self.client.rest_client.request(
                method, url, headers=headers, body=body, _request_timeout=timeout
            )
            response: aiohttp.ClientResponse = answer.response
            REQUESTS.labels(verb, resource, str(response.status)).inc()
            if response.status < 300:
                return response
            raise _error(response.status, await _reason(response))
        except (aiohttp.ClientError, TimeoutError, ConnectionError) as err:
            REQUESTS.labels(verb, resource, "none").inc()
            raise UnreachableError(0, f"{method} {path}: {err or type(err).__name__}") from err


async def connect(kubeconfig: str | None = None) -> KubeApi:
    """Return a client with the pod's service account, else with a kubeconfig.

    Args:
        kubeconfig: Path of the kubeconfig; None: the value of KUBECONFIG, or its default path.

    Raises:
        RejectedError: There is neither a service account nor a kubeconfig.
    """
    configuration = client.Configuration()
    try:
        config.load_incluster_config(client_configuration=configuration)
    except config.ConfigException:
        try:
            await config.load_kube_config(kubeconfig, client_configuration=configuration)
        except config.ConfigException as err:
            raise RejectedError(0, f"no service account and no kubeconfig: {err}") from err
    return KubeApi(configuration)


def _resource(path: str) -> str:
    """Return the resource of a path as a metric label of few values, such as ``deployments``."""
    parts = path.strip("/").split("/")
    rest = parts[3:] if parts[0] == "apis" else parts[2:]
    if len(rest) > 2 and rest[0] == "namespaces":
        rest = rest[2:]
    return f"{rest[0]}/{rest[2]}" if len(rest) > 2 else rest[0]


async def _reason(response: aiohttp.ClientResponse) -> Object:
    try:
        answer: Object = json.loads(await response.read())
    except ValueError:
        answer = {"message": response.reason or ""}
    return answer


def _error(status: int, body: Mapping[str, Any]) -> KubeError:
    kind = _ERRORS.get(status, UnreachableError)
    return kind(status, str(body.get("message") or f"status {status}")[:1024])
