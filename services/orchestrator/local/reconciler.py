"""Local reconciler: advances adapter canaries and follows mission health on one machine.

State machine, canary analysis and routes are the same as in a cluster; only the store differs.
"""

import asyncio
import time
from contextlib import suppress

import grpc
from bem_fleet.services.orchestrator.canary.machine import COMMANDS, Facts, GateVerdict, advance
from bem_fleet.services.orchestrator.canary.status import canary_status_patch
from bem_fleet.services.orchestrator.canary_analysis import CanaryAnalysisRunner
from bem_fleet.services.orchestrator.local.mission_files import MissionFiles
from bem_fleet.services.orchestrator.mission import COMMAND, Mission
from bem_fleet.services.orchestrator.rollout import CHANGES, WEIGHT, latest_verdict
from bem_fleet.services.orchestrator.settings import OrchestratorSettings
from fleet.certificates import certificates_of
from fleet.clients import open_channel
from grpc_health.v1 import health_pb2, health_pb2_grpc

_HEALTH_TIMEOUT_S = 2.0


class LocalReconciler:
    """Reconciles the missions of one machine.

    Args:
        files: The missions.
        analysis: Canary analysis and adapter readiness.
        settings: Intervals of polling and analysis.
    """

    def __init__(
        self, files: MissionFiles, analysis: CanaryAnalysisRunner, settings: OrchestratorSettings
    ) -> None:
        self._files, self._analysis, self._settings = files, analysis, settings

    async def run(self) -> None:
        """Reconcile at every change, and periodically while a canary runs, until cancelled."""
        changed = self._files.changed
        while True:
            changed.clear()
            for mission in self._files.list_missions():
                await self._reconcile_mission(mission)
            running = any(
                not mission.canary_status.state.phase.is_final
                for mission in self._files.list_missions()
            )
            with suppress(TimeoutError):
                async with asyncio.timeout(self._settings.canary_resync_s if running else None):
                    await changed.wait()

    async def watch_health(self) -> None:
        """Keep each mission's phase in line with its gRPC health, until cancelled."""
        certificates = certificates_of(self._settings)
        channels = {
            mission.key: open_channel(
                self._analysis.address(mission, mission.workload), certificates=certificates
            )
            for mission in self._files.list_missions()
        }
        try:
            while True:
                for mission in self._files.list_missions():
                    ready = await self._is_serving(channels[mission.key], mission)
                    phase = "Running" if ready else "Pending"
                    status = {"phase": phase, "readyReplicas": int(ready)}
                    await self._files.merge_patch(f"{mission.path}/status", {"status": status})
                await asyncio.sleep(self._settings.analysis_interval_s)
        finally:
            for channel in channels.values():
                await channel.close()

    async def _is_serving(self, channel: grpc.aio.Channel, mission: Mission) -> bool:
        request = health_pb2.HealthCheckRequest(service=mission.grpc_service)
        try:
            response = await health_pb2_grpc.HealthStub(channel).Check(
                request, timeout=_HEALTH_TIMEOUT_S
            )
        except grpc.RpcError:
            return False
        return bool(response.status == health_pb2.HealthCheckResponse.SERVING)

    async def _reconcile_mission(self, mission: Mission) -> None:
        old = mission.canary_status
        gate = latest_verdict(mission, self._analysis)
        is_current = mission.canary is not None and mission.canary.id == old.state.id
        facts = Facts(
            now=time.time(),
            ready=is_current and self._analysis.adapter_loaded(mission),
            verdict=GateVerdict(gate.verdict),
            verdict_reason=gate.reasons,
            command=mission.command if mission.command in COMMANDS else "",
            # A promotion only changes the route, so there is no rollout to wait for.
            stable_is_promoted=True,
        )
        state = advance(old.state, mission.canary, facts)
        canary = canary_status_patch(old, state, mission.canary, gate=gate, stable={})
        if canary and canary != old.raw:
            if (state.phase, state.step) != (old.state.phase, old.state.step):
                CHANGES.labels(state.phase.value).inc()
            status = {"canary": {**dict.fromkeys(old.raw), **canary}}
            await self._files.merge_patch(f"{mission.path}/status", {"status": status})
        if mission.command:
            annotations = {"annotations": {COMMAND: None}}
            await self._files.merge_patch(mission.path, {"metadata": annotations})
        WEIGHT.labels(mission.name).set(state.weight)
