"""Moves the canaries of one machine on; rules, gate and routes are the cluster's."""

import asyncio
import time
from contextlib import suppress

import grpc
from bem_fleet.services.orchestrator.analyst import Analyst
from bem_fleet.services.orchestrator.canary import record
from bem_fleet.services.orchestrator.canary.machine import COMMANDS, Facts, Verdict, advance
from bem_fleet.services.orchestrator.local.files import MissionFiles
from bem_fleet.services.orchestrator.mission import COMMAND, Mission
from bem_fleet.services.orchestrator.rollout import CHANGES, WEIGHT, last_word
from bem_fleet.services.orchestrator.settings import OrchestratorSettings
from fleet.clients import open_channel
from grpc_health.v1 import health_pb2, health_pb2_grpc


class LocalCanaries:
    """What the reconciler is to a cluster: reads the files, writes what is due.

    Args:
        files: The missions.
        analyst: Asks validation and the missions.
        settings: Pace.
    """

    def __init__(
        self, files: MissionFiles, analyst: Analyst, settings: OrchestratorSettings
    ) -> None:
        self._files, self._analyst, self._settings = files, analyst, settings

    async def run(self) -> None:
        """Move on for ever, at every change and, while a canary runs, at every tick."""
        changed = self._files.changed
        while True:
            changed.clear()
            for mission in list(self._files):
                await self._one(mission)
            live = any(not record.read_state(one.status).phase.is_final for one in self._files)
            with suppress(TimeoutError):
                async with asyncio.timeout(self._settings.tick_s if live else None):
                    await changed.wait()

    async def watch_health(self) -> None:
        """Keep each mission's phase what its health is."""
        channels = {
            mission.key: open_channel(self._analyst.address(mission, mission.workload))
            for mission in self._files
        }
        try:
            while True:
                for mission in list(self._files):
                    ready = await self._serves(channels[mission.key], mission)
                    status = {"phase": "Running" if ready else "Pending", "readyReplicas": ready}
                    await self._files.patch(f"{mission.path}/status", {"status": status}, "merge")
                await asyncio.sleep(self._settings.look_s)
        finally:
            for channel in channels.values():
                await channel.close()

    async def _serves(self, channel: grpc.aio.Channel, mission: Mission) -> int:
        request = health_pb2.HealthCheckRequest(service=mission.grpc_service)
        try:
            answer = await health_pb2_grpc.HealthStub(channel).Check(request, timeout=2)
        except grpc.RpcError:
            return 0
        return int(answer.status == health_pb2.HealthCheckResponse.SERVING)

    async def _one(self, mission: Mission) -> None:
        before, gate = last_word(mission, self._analyst)
        same = mission.canary is not None and mission.canary.id == before.id
        facts = Facts(
            now=time.time(),
            ready=same and self._analyst.adapter_ready(mission),
            verdict=Verdict(gate.verdict),
            verdict_reason=gate.reasons,
            command=mission.command if mission.command in COMMANDS else "",
            stable_done=True,  # another name answers: nothing has to be rolled out
        )
        state = advance(before, mission.canary, facts)
        old = mission.status.get("canary") or {}
        canary = record.written(old, before, state, mission.canary, gate=gate, stable={})
        if canary and canary != old:
            if (state.phase, state.step) != (before.phase, before.step):
                CHANGES.labels(state.phase.value).inc()
            status = {"canary": {**dict.fromkeys(old), **canary}}
            await self._files.patch(f"{mission.path}/status", {"status": status}, "merge")
        if mission.command:
            annotations = {"annotations": {COMMAND: None}}
            await self._files.patch(mission.path, {"metadata": annotations}, "merge")
        WEIGHT.labels(mission.name).set(state.weight)
