"""gRPC fuzzer: every method of a server's reflection, with well-formed and broken messages."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import grpc
from fleet.clients import open_channel
from fleet.reflection import ServiceDescriptors, read_descriptors
from google.protobuf import json_format, message_factory
from google.protobuf.descriptor import MethodDescriptor

from benchmarks.fuzz.examples import MESSAGES, renamed
from benchmarks.fuzz.outcomes import Outcomes
from benchmarks.fuzz.wire_messages import MessageWriter, corrupt

INTERNAL_ERRORS = ("INTERNAL", "UNKNOWN", "DATA_LOSS", "NO_ANSWER")
"""Codes that no input may cause; NO_ANSWER is a call that did not end in time."""

_DEADLINE_S = 30.0
_NO_MESSAGE_DEADLINE_S = 0.5
_MAX_RESPONSES = 64
_OPTIONS = [("grpc.max_send_message_length", 2**24), ("grpc.enable_http_proxy", 0)]
# Endless streams are read once.
_ENDLESS = ("/grpc.health.v1.Health/Watch", "/bemfleet.fleet.v1.FleetService/WatchRoutes")
_BAD_METADATA = (
    ("bem-safety-strength", "nan"),
    ("bem-safety-strength", "2"),
    ("bem-tenant", "x" * 200),
    ("authorization", "Bearer wrong"),
    ("authorization", "Basic !!"),
    ("x-request-id", "../" * 40),
    ("traceparent", "00-zz"),
    ("bem-safety-strength-bin", b"\xff\x00"),
)


class GrpcFuzzer:
    """Sends messages to one server.

    Args:
        name: Name of the server in the outcomes.
        address: Address of the server.
        outcomes: Receives the outcomes.
        key: Key of an operator; empty to send none.
        seed: Seed of all inputs.
    """

    def __init__(
        self, name: str, address: str, outcomes: Outcomes, *, key: str = "", seed: int = 0
    ) -> None:
        self._name, self._address, self._outcomes, self._key = name, address, outcomes, key
        self._random = random.Random(f"{seed} {name}")
        self._writer = MessageWriter(self._random)

    async def run(self, inputs: int, concurrency: int = 8) -> None:
        """Send a number of inputs, spread evenly over the methods.

        Args:
            inputs: Number of inputs.
            concurrency: Calls in flight at once.
        """
        async with open_channel(self._address) as reflecting:
            descriptors = await read_descriptors(reflecting)
        methods = sorted(descriptors.methods)
        remaining = iter(range(inputs))
        threads = ThreadPoolExecutor(concurrency)
        with threads, grpc.insecure_channel(self._address, _OPTIONS) as channel:

            async def work() -> None:
                for index in remaining:
                    path = methods[index % len(methods)]
                    await self._input(channel, descriptors, path, threads)

            async with asyncio.TaskGroup() as group:
                for _ in range(concurrency):
                    group.create_task(work())

    async def _input(
        self,
        channel: grpc.Channel,
        descriptors: ServiceDescriptors,
        path: str,
        threads: ThreadPoolExecutor,
    ) -> None:
        method = descriptors.methods[path]
        called = path if self._random.random() < 0.995 else f"{path}X"
        messages = self._messages(method, path, descriptors)
        call = partial(_call, channel, called, messages, self._metadata())
        code, detail = await asyncio.get_running_loop().run_in_executor(threads, call)
        self._outcomes.add(
            f"{self._name} {path}",
            code,
            failed=code in INTERNAL_ERRORS,
            payload=b"|".join(messages),
            detail=detail,
        )

    def _messages(
        self, method: MethodDescriptor, path: str, descriptors: ServiceDescriptors
    ) -> list[bytes]:
        """Return the messages of one call; a unary method now and then gets none or two."""
        if method.client_streaming and path in MESSAGES and self._random.random() < 0.5:
            return [self._changed(method, self._encode(method, one)) for one in MESSAGES[path]]
        usual = (0, 1, 1, 2, 3) if method.client_streaming else (1,) * 60 + (0, 2)
        return [self._message(method, path, descriptors) for _ in range(self._random.choice(usual))]

    def _message(
        self, method: MethodDescriptor, path: str, descriptors: ServiceDescriptors
    ) -> bytes:
        kind = self._random.random()
        if kind < 0.02:  # a message of another method
            other = self._random.choice(list(descriptors.methods.values()))
            return self._writer.message(other.input_type)
        examples = MESSAGES.get(path)
        if examples and kind < 0.65:
            raw = self._changed(method, self._encode(method, self._random.choice(examples)))
        else:
            raw = self._writer.message(method.input_type)
        return corrupt(raw, self._random) if self._random.random() < 0.2 else raw

    def _changed(self, method: MethodDescriptor, example: bytes) -> bytes:
        """Return a valid message, in most cases with one or two fields changed."""
        if self._random.random() < 0.2:
            return example
        return example + self._writer.few_fields(method.input_type)

    def _encode(self, method: MethodDescriptor, example: Mapping[str, Any]) -> bytes:
        """Return a valid request in the server's own version of its type."""
        message = message_factory.GetMessageClass(method.input_type)()
        json_format.ParseDict(renamed(example, self._random), message)
        return message.SerializeToString()

    def _metadata(self) -> list[tuple[str, Any]]:
        metadata: list[tuple[str, Any]] = []
        if self._key and self._random.random() < 0.9:
            metadata.append(("authorization", f"Bearer {self._key}"))
        if self._random.random() < 0.05:
            metadata.append(self._random.choice(_BAD_METADATA))
        return metadata


def _call(
    channel: grpc.Channel, path: str, messages: Sequence[bytes], metadata: list[tuple[str, Any]]
) -> tuple[str, str]:
    """Return code and details of one call; blocks.

    On the wire the four kinds of methods are alike, so that each can get any number of messages.
    gRPC's asyncio client would report INTERNAL where a server ends a call that is still written.
    """
    # gRPC's server never answers a unary call that ends without a message.
    deadline_s = _DEADLINE_S if messages else _NO_MESSAGE_DEADLINE_S
    open_call: Callable[..., Any] = channel.stream_stream(path)
    call = open_call(iter(messages), metadata=metadata, timeout=deadline_s)
    most = 1 if path in _ENDLESS else _MAX_RESPONSES
    try:
        for read, _ in enumerate(call, start=1):
            if read == most:
                return grpc.StatusCode.OK.name, "read in part"
    except grpc.RpcError as err:
        code, details = err.code().name, err.details() or ""
        # A server's own limit has a text of its own.
        late = messages and details == "Deadline Exceeded"
        return ("NO_ANSWER" if late else code), details
    finally:
        call.cancel()
    return call.code().name, call.details() or ""
