"""Kubernetes Events about missions and their workloads, as ``kubectl describe`` prints them."""

from datetime import UTC, datetime
from uuid import uuid4

from bem_fleet.services.orchestrator.kube.api import KubeApi, KubeError, Object
from bem_fleet.services.orchestrator.mission import GROUP, VERSION, Mission
from fleet import logs
from prometheus_client import Counter

_LOG = logs.get("orchestrator.events")
EVENTS = Counter("bem_orchestrator_events_total", "Events written, by reason.", ["reason"])


async def record(
    api: KubeApi, mission: Mission, reason: str, note: str, *, warning: bool = False
) -> None:
    """Write an Event about a mission; a failed write is logged and not repeated."""
    await record_of(api, mission.raw, reason, note, warning=warning)


async def record_of(
    api: KubeApi, raw: Object, reason: str, note: str, *, warning: bool = False
) -> None:
    """Write an Event about an object; a failed write is logged and not repeated.

    Args:
        api: Connection to the API server.
        raw: The object; without ``kind`` it is a Mission.
        reason: One word, as ``kubectl describe`` prints it.
        note: A sentence; cut after 1,000 characters.
        warning: Whether somebody should look at it.
    """
    metadata = raw["metadata"]
    name, namespace = metadata["name"], metadata["namespace"]
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    event = {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": f"{name}.{uuid4().hex[:16]}", "namespace": namespace},
        "eventTime": now,
        "reportingController": f"{GROUP}/orchestrator",
        "reportingInstance": "bem-orchestrator",
        "action": "Reconcile",
        "reason": reason,
        "type": "Warning" if warning else "Normal",
        "note": note[:1000],
        "regarding": {
            "apiVersion": raw.get("apiVersion", f"{GROUP}/{VERSION}"),
            "kind": raw.get("kind", "Mission"),
            "name": name,
            "namespace": namespace,
            "uid": metadata["uid"],
        },
    }
    EVENTS.labels(reason).inc()
    try:
        await api.create(f"/apis/events.k8s.io/v1/namespaces/{namespace}/events", event)
    except KubeError as err:
        _LOG.warning(
            "event not written", object=f"{namespace}/{name}", reason=reason, why=str(err)[:200]
        )
