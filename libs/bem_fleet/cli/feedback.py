"""``fleetctl feedback``: feedback about answers, what became of it, and dead letters."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
from bemfleet.online.v1 import online_pb2 as pb
from bemfleet.online.v1 import online_pb2_grpc as rpc
from fleet.errors import UnavailableError

from bem_fleet.cli.application import NO
from bem_fleet.cli.cluster import Cluster
from bem_fleet.cli.local.plan import Plan
from bem_fleet.cli.operator_channel import calls_services, chosen_cluster, reach, service_channel
from bem_fleet.cli.operator_key import user_metadata
from bem_fleet.cli.reports import Report, Table
from bem_fleet.feedback.dead_letter_command import decide

_TIMEOUT_S = 60.0
_DEAD_LETTERS = ("python", "-m", "bem_fleet.feedback.dead_letter_command")
RedisUrl = Annotated[str, typer.Option(help="URL of Redis; the fleet of this machine without it")]

app = typer.Typer(
    no_args_is_help=True,
    help="Send feedback, see what became of it, and decide about dead letters. Exit code 0 if it "
    "is done, 1 if it is refused, 2 if the service cannot be reached.",
)


@app.command("send")
@calls_services
def send(
    answer_id: Annotated[str, typer.Argument(help="id of the answer")],
    *,
    rating: Annotated[str, typer.Option(help="up or down")] = "",
    correction: Annotated[str, typer.Option(help="what the right answer is")] = "",
    comment: Annotated[str, typer.Option(help="free text")] = "",
    prompt: Annotated[str, typer.Option(help="what was asked; the learner needs it")] = "",
    answer: Annotated[str, typer.Option(help="what was answered; ratings need it")] = "",
    tag: Annotated[list[str] | None, typer.Option(help="label; repeatable")] = None,
    user: Annotated[str, typer.Option(help="end user")] = "",
    consent: Annotated[bool, typer.Option("--consent", help="texts may be learned from")] = False,
    key: Annotated[str, typer.Option(help="idempotency key: the same one stores once")] = "",
    key_file: Annotated[Path | None, typer.Option(help="file with your API key")] = None,
    address: Annotated[str, typer.Option(help="host:port of the gateway")] = "",
) -> Report:
    """Send feedback to the gateway; it is on disk when the command returns."""
    given: dict[str, Any] = {
        "completion_id": answer_id,
        "rating": rating,
        "correction": correction,
        "comment": comment,
        "prompt": prompt,
        "answer": answer,
        "tags": tag or [],
        "user": user,
        "consent": consent,
    }
    body = {name: value for name, value in given.items() if value}
    with reach("gateway", address, key="user") as reached:
        headers = dict(user_metadata(key_file) or reached.metadata)
        if key:
            headers["idempotency-key"] = key
        url = f"{'https' if reached.tls else 'http'}://{reached.address}/v1/feedback"
        try:
            response = httpx.post(url, json=body, headers=headers, timeout=_TIMEOUT_S)
        except httpx.TransportError as err:
            raise UnavailableError(f"gateway at {reached.address}: {err}") from err
    return _receipt(response)


@app.command("status")
@calls_services
def status(
    address: Annotated[str, typer.Option(help="host:port of mission online's sidecar")] = "",
) -> Report:
    """Print feedback by what became of it, and what each family lacks for a change."""
    with service_channel("online", address) as (channel, key):
        stub = rpc.OnlineServiceStub(channel)
        found = stub.Status(pb.StatusRequest(), timeout=_TIMEOUT_S, metadata=key)
    counts = [("outcome", "entries")]
    counts += [(name, str(count)) for name, count in sorted(found.feedback.items())]
    families = [("family", "events", "lacks")]
    families += [(one.name, str(one.events), one.lacks or "nothing") for one in found.families]
    learning = [f"not learning: {found.not_learning}"] if found.not_learning else []
    return Report(found, [Table(counts), Table(families), *learning])


@app.command("dead")
@calls_services
def dead(
    redis_url: RedisUrl = "",
    limit: Annotated[int, typer.Option(min=1, max=1000, help="oldest dead letters")] = 100,
) -> Report:
    """Print the entries that had no effect, with the reason and without their texts."""
    found = _decide(redis_url, "list", str(limit))
    if isinstance(found, Report):
        return found
    rows = [("id", "reason", "deliveries", "bytes", "kept")]
    for one in found["letters"]:
        kept = "yes" if one["kept"] else "no"
        counts = (str(one["deliveries"]), str(one["size"]), kept)
        rows.append((one["identifier"], one["reason"], *counts))
    return Report(found["letters"], [Table(rows)])


@app.command("requeue")
@calls_services
def requeue(identifier: str, redis_url: RedisUrl = "") -> Report:
    """Put a dead letter back into the queue, once."""
    found = _decide(redis_url, "requeue", identifier)
    if isinstance(found, Report):
        return found
    return Report(found, [f"{identifier}: is entry {found['id']} of the queue"])


@app.command("discard")
@calls_services
def discard(identifier: str, redis_url: RedisUrl = "") -> Report:
    """Remove a dead letter for good."""
    found = _decide(redis_url, "discard", identifier)
    return found if isinstance(found, Report) else Report(found, [f"{identifier}: removed"])


def _decide(redis_url: str, *words: str) -> dict[str, Any] | Report:
    """Run a command on the dead letters; a refusal in a cluster is a report.

    They are those of a Redis, by default with the login of this machine's learner. In a cluster,
    mission online's pod runs the command: no login of Redis leaves the cluster.

    Raises:
        UnavailableError: Redis or the pod cannot be reached.
        NotFoundError: This machine's queue has no such dead letter.
    """
    cluster = chosen_cluster()
    if cluster is not None and not redis_url:
        return _decide_in_cluster(cluster, *words)
    return asyncio.run(decide(redis_url or Plan().redis_url("online"), *words))


def _decide_in_cluster(cluster: Cluster, *words: str) -> dict[str, Any] | Report:
    workload = f"deployment/{cluster.service('online').name}"
    _, text = cluster.execute(workload, *_DEAD_LETTERS, *words, container="online")
    found: dict[str, Any] = json.loads(text)
    if "error" not in found:
        return found
    print(f"online: {found['error']}", file=sys.stderr)
    return Report(found, [], NO)


def _receipt(response: httpx.Response) -> Report:
    try:
        found = response.json()
    except ValueError as err:
        raise UnavailableError(
            f"gateway: answered {response.status_code} without JSON; is it the gateway's address?"
        ) from err
    if response.is_success:
        kept = ", ".join(found["kept"]) or "nothing"
        return Report(found, [f"entry {found['id']}; kept: {kept}"])
    error = found["error"]
    print(f"{response.status_code}: {error['message']}", file=sys.stderr)
    return Report(found, [], NO)
