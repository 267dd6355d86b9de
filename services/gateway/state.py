"""Typed state of the gateway, and its lifespan."""

from __future__ import annotations  # the typed stub exists in the stubs only

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial

from bem_fleet.feedback.intake import FeedbackIntake
from bem_fleet.feedback.scrubber import FeedbackScrubber
from bem_fleet.services.gateway.canary_observations import CanaryObserver
from bem_fleet.services.gateway.idle_missions import IdleMission
from bem_fleet.services.gateway.metrics_collector import MetricsCollector
from bem_fleet.services.gateway.missions import MissionClient, connect_missions
from bem_fleet.services.gateway.responses_store import ResponseStore
from bem_fleet.services.gateway.route_table import RouteTable
from bem_fleet.services.gateway.settings import GatewaySettings
from bemfleet.fleet.v1 import fleet_pb2_grpc
from bemfleet.validation.v1 import validation_pb2_grpc
from fastapi import Request
from fleet.access import Access
from fleet.access.own_key import OwnKey
from fleet.certificates import certificates_of
from fleet.clients import open_channel
from grpc import aio


@dataclass(frozen=True)
class GatewayState:
    """Clients that the routes use.

    Attributes:
        settings: Settings of the gateway.
        access: Keys and rules of the listener.
        missions: Mission clients by name.
        validation: Stub of the validation service.
        feedback: Intake of the feedback queue.
        scrubber: Removes personal data and secrets from feedback.
        responses: Responses that later ones continue.
        table: Canary routes.
        observer: Canary observations.
        fleet: Stub of the orchestrator; None for a gateway without one.
        metrics: Metrics pages of the fleet, which the dashboard page shows.
    """

    settings: GatewaySettings
    access: Access
    missions: dict[str, MissionClient]
    validation: validation_pb2_grpc.ValidationServiceAsyncStub
    feedback: FeedbackIntake
    scrubber: FeedbackScrubber
    responses: ResponseStore
    table: RouteTable
    observer: CanaryObserver
    fleet: fleet_pb2_grpc.FleetServiceAsyncStub | None
    metrics: MetricsCollector

    @property
    def openai_mission(self) -> MissionClient:
        """Mission behind the OpenAI routes."""
        return self.missions[self.settings.openai_mission]


@asynccontextmanager
async def open_state(
    settings: GatewaySettings, access: Access, own_key: OwnKey
) -> AsyncIterator[GatewayState]:
    """Open the clients and their background tasks; close all of them at the end.

    Args:
        settings: Settings of the gateway.
        access: Keys and rules of the listener.
        own_key: Key of the gateway for calls that no client has caused.
    """
    async with AsyncExitStack() as stack:
        certificates, url = certificates_of(settings), settings.redis_url
        observer = CanaryObserver(url)
        stack.push_async_callback(observer.close)
        table = RouteTable(
            settings.fleet_address,
            settings.max_message_bytes,
            observer.set_active_canaries,
            own_key=own_key,
            certificates=certificates,
            channel_grace_s=settings.request_timeout_s,
        )
        stack.push_async_callback(table.close)
        missions = connect_missions(
            settings.missions,
            settings.max_message_bytes,
            table,
            observer,
            certificates=certificates,
            replicas=settings.replicas,
            hold=partial(_idle_mission, settings),
        )
        for mission in missions.values():
            stack.push_async_callback(mission.close)
        validation, fleet = _control_stubs(settings, stack)
        feedback = FeedbackIntake(url, settings.feedback_limits, settings.feedback_stream)
        stack.callback(feedback.close)
        scrubber = FeedbackScrubber(
            missions[settings.openai_mission].safety, settings.feedback_key_file
        )
        watches = (mission.watch_connection() for mission in missions.values())
        background = [asyncio.create_task(one) for one in (table.watch(), observer.run(), *watches)]
        stack.push_async_callback(_cancel, background)
        intake = feedback, scrubber, _open_responses(settings, stack)
        clients = (missions, validation, *intake, table, observer, fleet)
        yield GatewayState(settings, access, *clients, MetricsCollector(settings.metrics_pages))


def _idle_mission(
    settings: GatewaySettings, name: str, channel: aio.Channel, service: str
) -> IdleMission | None:
    """Return what holds the calls of a mission that may have no pods; None for all others."""
    if name not in settings.idle_missions:
        return None
    return IdleMission(
        name,
        channel,
        service,
        wake_timeout_s=settings.wake_timeout_s,
        idle_after_s=settings.idle_after_s,
    )


def _open_responses(settings: GatewaySettings, stack: AsyncExitStack) -> ResponseStore:
    store = ResponseStore(
        settings.redis_url, ttl_s=settings.responses_ttl_s, kept=settings.responses_kept
    )
    stack.callback(store.close)
    return store


def state_of(request: Request) -> GatewayState:
    """Return the state of the application that serves the request."""
    state: GatewayState = request.app.state.gateway
    return state


def _control_stubs(
    settings: GatewaySettings, stack: AsyncExitStack
) -> tuple[
    validation_pb2_grpc.ValidationServiceAsyncStub, fleet_pb2_grpc.FleetServiceAsyncStub | None
]:
    """Return the stubs of validation and orchestrator; their channels close with the stack."""

    def connect(address: str) -> aio.Channel:
        channel = open_channel(
            address,
            certificates=certificates_of(settings),
            max_message_bytes=settings.max_message_bytes,
        )
        stack.push_async_callback(channel.close)
        return channel

    validation: validation_pb2_grpc.ValidationServiceAsyncStub = (
        validation_pb2_grpc.ValidationServiceStub(connect(settings.validation_address))
    )
    if not settings.fleet_address:
        return validation, None
    fleet: fleet_pb2_grpc.FleetServiceAsyncStub = fleet_pb2_grpc.FleetServiceStub(
        connect(settings.fleet_address)
    )
    return validation, fleet


async def _cancel(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
