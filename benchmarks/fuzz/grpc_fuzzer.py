"""gRPC fuzzer: every method of a server's reflection, with well-formed and broken messages."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import grpc
from fleet.clients import open_channel
from fleet.reflection import ServiceDescriptors, read_descriptors
from google.protobuf import json_format, message_factory
from google.protobuf.descriptor import MethodDescriptor
from grpc import aio

from benchmarks.fuzz.examples import MESSAGES
from benchmarks.fuzz.outcomes import Outcomes
from benchmarks.fuzz.wire_messages import MessageWriter, corrupt

INTERNAL_ERRORS = ("INTERNAL", "UNKNOWN", "DATA_LOSS", "NO_ANSWER")
"""Codes that no input may cause; NO_ANSWER is a call that did not end in time."""

_DEADLINE_S = 20.0
_MAX_RESPONSES = 64
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
        async with open_channel(self._address) as channel:
            descriptors = await read_descriptors(channel)
            methods = sorted(descriptors.methods)
            remaining = iter(range(inputs))

            async def work() -> None:
                for index in remaining:
                    await self._input(channel, descriptors, methods[index % len(methods)])

            async with asyncio.TaskGroup() as group:
                for _ in range(concurrency):
                    group.create_task(work())

    async def _input(
        self, channel: aio.Channel, descriptors: ServiceDescriptors, path: str
    ) -> None:
        method = descriptors.methods[path]
        called = path if self._random.random() < 0.995 else f"{path}X"
        messages = self._messages(method, path, descriptors)
        code, detail = await _call(channel, called, messages, self._metadata())
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
        usual = (0, 1, 1, 2, 3) if method.client_streaming else (1,) * 60 + (0, 2)
        return [self._message(method, path, descriptors) for _ in range(self._random.choice(usual))]

    def _message(
        self, method: MethodDescriptor, path: str, descriptors: ServiceDescriptors
    ) -> bytes:
        kind = self._random.random()
        if kind < 0.02:  # a message of another method
            other = self._random.choice(list(descriptors.methods.values()))
            return self._writer.message(other.input_type)
        example = _example(method, path, self._random)
        if example is not None and kind < 0.6:
            raw = example + self._writer.few_fields(method.input_type)
        elif example is not None and kind < 0.65:
            raw = example
        else:
            raw = self._writer.message(method.input_type)
        return corrupt(raw, self._random) if self._random.random() < 0.2 else raw

    def _metadata(self) -> list[tuple[str, Any]]:
        metadata: list[tuple[str, Any]] = []
        if self._key and self._random.random() < 0.9:
            metadata.append(("authorization", f"Bearer {self._key}"))
        if self._random.random() < 0.05:
            metadata.append(self._random.choice(_BAD_METADATA))
        return metadata


def _example(method: MethodDescriptor, path: str, random_: random.Random) -> bytes | None:
    """Return a valid request, in the method's own version of its type; None without examples."""
    examples: Sequence[Mapping[str, Any]] = MESSAGES.get(path, ())
    if not examples:
        return None
    message = message_factory.GetMessageClass(method.input_type)()
    json_format.ParseDict(random_.choice(examples), message)
    return message.SerializeToString()


async def _call(
    channel: aio.Channel, path: str, messages: Sequence[bytes], metadata: list[tuple[str, Any]]
) -> tuple[str, str]:
    """Return code and details of one call.

    On the wire the four kinds of methods are alike, so that each can get any number of messages.
    """
    open_call: Callable[..., Any] = channel.stream_stream(path)
    call = open_call(metadata=metadata, timeout=_DEADLINE_S)
    try:
        async with asyncio.timeout(_DEADLINE_S + 5):
            for message in messages:
                await call.write(message)
            await call.done_writing()
            for _ in range(1 if path in _ENDLESS else _MAX_RESPONSES):
                if await call.read() is aio.EOF:
                    code = await call.code()
                    return code.name, await call.details() or ""
    except aio.AioRpcError as err:
        return err.code().name, err.details() or ""
    except asyncio.InvalidStateError:  # the server ended the call while it was being written
        code = await call.code()
        return code.name, await call.details() or ""
    except TimeoutError:
        return "NO_ANSWER", f"no status after {_DEADLINE_S + 5:g} s"
    finally:
        call.cancel()
    return grpc.StatusCode.OK.name, "read in part"
