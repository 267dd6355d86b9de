"""Schema of the fleet's snapshot, which the dashboard page shows and ``/v1/fleet`` returns.

A snapshot has parts, each from one source. A part whose source fails, or that the caller's role may
not read, has a reason in the place of its data, so that no failure hides another part.
"""

from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict

T = TypeVar("T")
PartState = Literal["ok", "unavailable", "refused", "absent"]
NoticeKind = Literal["health", "performance", "resource", "significance"]
Severity = Literal["info", "warning", "critical"]


class _Sent(BaseModel):
    model_config = ConfigDict(frozen=True)


class Part(_Sent, Generic[T]):
    """One part of a snapshot.

    Attributes:
        state: ``ok``; ``unavailable`` if its source does not answer; ``refused`` if the caller's
            role is too small; ``absent`` if the fleet has no such source.
        reason: Explanation for people of any state but ``ok``.
        data: The part; None unless ``ok``.
    """

    state: PartState
    reason: str = ""
    data: T | None = None


class Caller(_Sent):
    """Who reads the snapshot.

    Attributes:
        name: Name of the key; ``anonymous`` without one.
        role: ``open``, ``user``, ``service`` or ``operator``.
    """

    name: str
    role: str


class ModelVersion(_Sent):
    """Base model, adapter or planner that a mission serves.

    Attributes:
        name: Name that requests use.
        version: Digest of the artifact.
        base: Whether it is the base model.
        rank: Rank of the adapter; 0 for a base model.
        loaded_unix_s: Time of loading, in seconds since the epoch.
    """

    name: str
    version: str
    base: bool
    rank: int
    loaded_unix_s: int


class ServedMission(_Sent):
    """A mission of the gateway's settings.

    Attributes:
        name: Name of the mission.
        serving: Whether it answers.
        reason: Reason why it does not; empty if it does.
        version: Version of the serving code.
        base_model: Name of its base model.
        base_model_digest: SHA-256 of the base model's weights.
        weights: Weight format, such as ``int8``.
        warnings: What it serves without.
        models: Base model and adapters.
        rejected: Reason by name of each folder that is no adapter.
        planner: Model that plans over the adapters; None without one.
    """

    name: str
    serving: bool
    reason: str = ""
    version: str = ""
    base_model: str = ""
    base_model_digest: str = ""
    weights: str = ""
    warnings: list[str] = []
    models: list[ModelVersion] = []
    rejected: dict[str, str] = {}
    planner: ModelVersion | None = None


class Control(_Sent):
    """What the orchestrator says, as the messages of ``bemfleet.fleet.v1`` in JSON.

    Attributes:
        status: ``GetFleetStatusResponse``.
        missions: ``Mission`` of each mission, with its latest canary and its evidence.
        plan: ``GetPlanResponse``.
        graph: ``GetIntegrationGraphResponse``.
    """

    status: dict[str, Any]
    missions: list[dict[str, Any]]
    plan: dict[str, Any]
    graph: dict[str, Any]


class ProcessPoint(_Sent):
    """Figures of one process at one time; None where its page has no such metric.

    Attributes:
        unix_ms: Time of the sample, in milliseconds since the epoch.
        requests_per_s: Requests, without probes of health, metrics and this page.
        errors_per_s: Requests that failed by the server's fault.
        latency_p95_s: 95th percentile of the request latency over the last minute, in seconds.
        tokens_per_s: Generated tokens.
        running: Requests that are computed.
        waiting: Requests in the queue.
        withheld_per_s: Texts that the sidecar filtered, redacted or blocked.
        cache_hit_ratio: Share of prompt tokens from the prefix cache, 0 to 1.
        cpu_cores: Processor time per second, in cores.
        memory_bytes: Resident memory.
    """

    unix_ms: int
    requests_per_s: float | None = None
    errors_per_s: float | None = None
    latency_p95_s: float | None = None
    tokens_per_s: float | None = None
    running: float | None = None
    waiting: float | None = None
    withheld_per_s: float | None = None
    cache_hit_ratio: float | None = None
    cpu_cores: float | None = None
    memory_bytes: float | None = None


class ProcessMetrics(_Sent):
    """Metrics page of one process.

    Attributes:
        name: Name of the process.
        reason: Reason why its page cannot be read; empty if it can.
        points: Figures, oldest first: all that are kept in the first event of a stream, then the
            latest.
    """

    name: str
    reason: str = ""
    points: list[ProcessPoint] = []


class Metrics(_Sent):
    """Metrics of all processes.

    Attributes:
        cores: Processor cores of the gateway's machine.
        memory_bytes: Memory of the gateway's machine.
        interval_s: Time between two points, in seconds.
        processes: Processes in the order of the settings, the gateway last.
    """

    cores: int
    memory_bytes: int
    interval_s: float
    processes: list[ProcessMetrics]


class Notice(_Sent):
    """Something that a person should know.

    Attributes:
        kind: Group of the seed's table.
        severity: How soon.
        subject: Mission, process or gate.
        text: What is wrong, and what to do where that is known.
        source: Who says so: ``missions``, ``orchestrator``, ``validation``, ``metrics`` or
            ``prometheus``.
    """

    kind: NoticeKind
    severity: Severity
    subject: str
    text: str
    source: str


class FleetSnapshot(_Sent):
    """The fleet at one time.

    Attributes:
        object: ``fleet.snapshot``.
        unix_ms: Time, in milliseconds since the epoch.
        caller: Who reads it.
        missions: Missions as they describe themselves.
        control: What the orchestrator says; an operator's.
        claims: Latest claims of the validation service, newest first, as ``Claim`` of
            ``bemfleet.validation.v1`` in JSON; an operator's.
        sessions: The caller's sessions of mission memory, as ``Session`` of ``bemfleet.memory.v1``.
        metrics: Figures of the processes.
        alerts: Alerts that fire in Prometheus.
        notices: Conclusions from all other parts, the most severe first.
    """

    object: Literal["fleet.snapshot"] = "fleet.snapshot"
    unix_ms: int
    caller: Caller
    missions: Part[list[ServedMission]]
    control: Part[Control]
    claims: Part[list[dict[str, Any]]]
    sessions: Part[list[dict[str, Any]]]
    metrics: Part[Metrics]
    alerts: Part[list[Notice]]
    notices: list[Notice] = []
