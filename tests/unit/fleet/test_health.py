"""Health status and its watch streams, without a server."""

import asyncio
from typing import Any

import pytest
from fleet.errors import NotFoundError
from fleet.health import HealthServicer
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2 import HealthCheckResponse

NAME = "sample.v1.SampleService"


def watch(servicer: HealthServicer) -> Any:
    """Return a watch stream of the sample service."""
    context: Any = None
    return servicer.Watch(health_pb2.HealthCheckRequest(service=NAME), context)


async def test_watch_sends_each_change_and_ends_with_the_drain() -> None:
    """A watcher sees unknown, serving, not serving, and then the end of its stream."""
    servicer = HealthServicer()
    statuses: list[int] = []

    async def follow() -> None:
        statuses.extend([response.status async for response in watch(servicer)])

    following = asyncio.create_task(follow())
    for step in (
        servicer.set(NAME, HealthCheckResponse.SERVING),
        servicer.enter_graceful_shutdown(),
        servicer.end_watches(),
    ):
        await asyncio.sleep(0.01)
        await step
    await asyncio.wait_for(following, 5)

    assert statuses == [
        HealthCheckResponse.SERVICE_UNKNOWN,
        HealthCheckResponse.SERVING,
        HealthCheckResponse.NOT_SERVING,
    ]


async def test_a_change_while_a_status_is_sent_is_told_before_the_end() -> None:
    """A server that stops at that moment: the watcher sees NOT_SERVING, then the end."""
    servicer = HealthServicer()
    await servicer.set(NAME, HealthCheckResponse.SERVING)
    statuses = watch(servicer)
    await anext(statuses)  # the stream waits where it has sent this
    await servicer.enter_graceful_shutdown()
    await servicer.end_watches()

    assert [one.status async for one in statuses] == [HealthCheckResponse.NOT_SERVING]


async def test_a_watcher_that_leaves_does_not_silence_the_others() -> None:
    """Two watchers of one service: after one has left, the other still gets changes."""
    servicer = HealthServicer()
    leaving, staying = watch(servicer), watch(servicer)
    await anext(leaving)
    await anext(staying)
    await leaving.aclose()
    waiting = asyncio.create_task(anext(staying))
    await asyncio.sleep(0)
    await servicer.set(NAME, HealthCheckResponse.SERVING)

    assert (await asyncio.wait_for(waiting, 5)).status == HealthCheckResponse.SERVING
    await staying.aclose()


async def test_shutdown_is_final() -> None:
    """After the graceful shutdown no service turns ready again."""
    servicer = HealthServicer()
    await servicer.set(NAME, HealthCheckResponse.SERVING)
    await servicer.enter_graceful_shutdown()
    await servicer.set(NAME, HealthCheckResponse.SERVING)
    context: Any = None
    status = await servicer.Check(health_pb2.HealthCheckRequest(service=NAME), context)

    assert status.status == HealthCheckResponse.NOT_SERVING


async def test_unknown_service_is_not_found_in_few_words() -> None:
    """The name is repeated in part, so that the error fits the trailers."""
    context: Any = None
    with pytest.raises(NotFoundError) as caught:
        await HealthServicer().Check(health_pb2.HealthCheckRequest(service="x" * 70_000), context)

    assert len(str(caught.value)) < 200
