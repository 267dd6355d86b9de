"""Fleet of the overload benchmark: router, sidecar, gateway and a canary whose calls are mirrored.

The canary is a copy of stable's adapter, so whatever the analysis finds is due to the load.
"""

import asyncio
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from bem.adapters.artifact import ADAPTER_FORMAT
from bem_fleet.cli.local import commands
from bem_fleet.cli.local.plan import Plan
from bem_fleet.descriptors import load_descriptors
from bemfleet.fleet.v1 import fleet_pb2 as pb
from bemfleet.fleet.v1 import fleet_pb2_grpc as rpc
from fleet.access.own_key import OwnKey
from fleet.clients import open_channel
from fleet.testing import free_port
from google.protobuf.json_format import ParseDict
from google.protobuf.struct_pb2 import Struct
from prometheus_client.parser import text_string_to_metric_families

ROOT = Path(__file__).resolve().parents[2]
SERVICES = ("gateway", "orchestrator", "router", "safety", "validation")
STABLE, CANARY = "passage-qa", "passage-qa-copy"
WEIGHT, MIRRORED_PERCENT = 20, 100
_START_LIMIT_S = 60.0
_CALL_TIMEOUT_S = 10.0


@contextmanager
def running_fleet(folder: Path) -> Iterator[Plan]:
    """Run the fleet in a folder, on free ports.

    Args:
        folder: Run folder, with the adapters beside it.

    Raises:
        RuntimeError: The fleet does not come up.
    """
    adapters = folder / "adapters"
    shutil.copytree(ROOT / "adapters", adapters)
    shutil.copytree(adapters / STABLE, adapters / CANARY)
    card = ADAPTER_FORMAT.read_card(adapters / STABLE)
    ADAPTER_FORMAT.write_card(adapters / CANARY, replace(card, name=CANARY))
    os.environ["BEM_ROUTER_ADAPTER_FOLDER"] = str(adapters)
    services = tuple(one for one in load_descriptors() if one.name in SERVICES)
    plan = Plan(run=folder / "run", services=services)
    plan = replace(plan, ports={name: free_port() for name in plan.ports})
    try:
        if commands.up(plan):
            raise RuntimeError(f"the fleet did not come up; its logs are in {plan.logs}")
        yield plan
    finally:
        commands.down(plan)


class Orchestrator:
    """The orchestrator of a fleet, called as its operator.

    Args:
        plan: Plan of the fleet.
    """

    def __init__(self, plan: Plan) -> None:
        self._address, self._key = plan.address("orchestrator"), OwnKey(plan.operator_key)

    async def start_canary(self) -> None:
        """Start the canary and return when it has traffic.

        Raises:
            TimeoutError: It has none after a minute.
        """
        steps = [{"weight": WEIGHT, "seconds": 86_400}]
        spec = {"model": CANARY, "shadow": MIRRORED_PERCENT, "shadowSeconds": 0, "steps": steps}
        request = pb.StartCanaryRequest(name="router", canary=ParseDict(spec, Struct()))
        await self._call("StartCanary", request)
        async with asyncio.timeout(_START_LIMIT_S):
            while True:
                if (await self.canary()).phase == "Canary":
                    return
                await asyncio.sleep(0.5)

    async def canary(self) -> pb.Canary:
        """Return the canary as it is now."""
        found = await self._call("GetMission", pb.GetMissionRequest(name="router"))
        canary: pb.Canary = found.mission.canary
        return canary

    async def _call(self, method: str, request: Any) -> Any:
        async with open_channel(self._address) as channel:
            call = getattr(rpc.FleetServiceStub(channel), method)
            return await call(request, timeout=_CALL_TIMEOUT_S, metadata=self._key.metadata())


def mirrored_calls(page: str) -> dict[str, float]:
    """Return how the mirrored calls ended, by end, from the gateway's metrics page."""
    return {
        sample.labels["end"]: sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.name == "bem_gateway_mirrored_total"
    }
