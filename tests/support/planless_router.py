"""Base class of the tests' router services that plan nothing and have no tokenizer."""

from __future__ import annotations  # gRPC's classes are generic in the stubs only

from typing import Any, NoReturn

import grpc
from bemfleet.router.v1 import router_pb2 as pb
from bemfleet.router.v1 import router_pb2_grpc as rpc
from grpc import aio


class PlanlessRouter(rpc.RouterServiceServicer):
    """Answers the calls about plans, policies and token ids with UNIMPLEMENTED."""

    async def Tokenize(  # noqa: N802 - the RPC's name
        self, request: pb.TokenizeRequest, context: aio.ServicerContext[Any, Any]
    ) -> pb.TokenizeResponse:
        """Refuse."""
        del request
        await _refuse(context)

    async def Detokenize(  # noqa: N802 - the RPC's name
        self, request: pb.DetokenizeRequest, context: aio.ServicerContext[Any, Any]
    ) -> pb.DetokenizeResponse:
        """Refuse."""
        del request
        await _refuse(context)

    async def Plan(  # noqa: N802 - the RPC's name
        self, request: pb.PlanRequest, context: aio.ServicerContext[Any, Any]
    ) -> pb.PlanResponse:
        """Refuse."""
        del request
        await _refuse(context)

    async def ApplyPolicyUpdate(  # noqa: N802 - the RPC's name
        self, request: pb.ApplyPolicyUpdateRequest, context: aio.ServicerContext[Any, Any]
    ) -> pb.ApplyPolicyUpdateResponse:
        """Refuse."""
        del request
        await _refuse(context)

    async def ListPolicyVersions(  # noqa: N802 - the RPC's name
        self, request: pb.ListPolicyVersionsRequest, context: aio.ServicerContext[Any, Any]
    ) -> pb.ListPolicyVersionsResponse:
        """Refuse."""
        del request
        await _refuse(context)

    async def Restore(  # noqa: N802 - the RPC's name
        self, request: pb.RestoreRequest, context: aio.ServicerContext[Any, Any]
    ) -> pb.RestoreResponse:
        """Refuse."""
        del request
        await _refuse(context)


async def _refuse(context: aio.ServicerContext[Any, Any]) -> NoReturn:
    await context.abort(grpc.StatusCode.UNIMPLEMENTED, "this router plans nothing")
