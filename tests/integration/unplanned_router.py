"""A router mission without a planner: the calls that plan are unimplemented."""

from typing import Any

import grpc
from bemfleet.router.v1 import router_pb2 as pb
from bemfleet.router.v1 import router_pb2_grpc as rpc


class UnplannedRouter(rpc.RouterServiceServicer):
    """Refuses plans and policies; tests give it ``Generate`` and ``Complete``."""

    async def Plan(self, request: pb.PlanRequest, context: Any) -> Any:  # noqa: N802, ARG002
        """Refuse."""
        await _refuse(context)

    async def ApplyPolicyUpdate(self, request: pb.ApplyPolicyUpdateRequest, context: Any) -> Any:  # noqa: N802, ARG002
        """Refuse."""
        await _refuse(context)

    async def ListPolicyVersions(self, request: pb.ListPolicyVersionsRequest, context: Any) -> Any:  # noqa: N802, ARG002
        """Refuse."""
        await _refuse(context)

    async def Restore(self, request: pb.RestoreRequest, context: Any) -> Any:  # noqa: N802, ARG002
        """Refuse."""
        await _refuse(context)


async def _refuse(context: Any) -> None:
    await context.abort(grpc.StatusCode.UNIMPLEMENTED, "this mission has no planner")
