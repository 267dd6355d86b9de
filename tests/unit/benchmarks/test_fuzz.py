"""Inputs of the fuzz test: reproducible, mostly readable, and rooted in valid requests."""

import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from bem_fleet.services.gateway.app import make_app
from bem_fleet.services.gateway.settings import GatewaySettings
from bemfleet.fleet.v1 import fleet_pb2
from bemfleet.mission.v1 import mission_pb2
from bemfleet.router.v1 import router_pb2
from bemfleet.safety.v1 import safety_pb2
from bemfleet.validation.v1 import validation_pb2
from google.protobuf import json_format, message_factory
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import DecodeError
from grpc_reflection.v1alpha import reflection_pb2
from hypothesis import given, settings
from hypothesis import strategies as st
from inference import open_inference_pb2

from benchmarks.fuzz import json_bodies
from benchmarks.fuzz.examples import BODIES, MESSAGES
from benchmarks.fuzz.outcomes import Outcomes
from benchmarks.fuzz.report import Run
from benchmarks.fuzz.schemathesis_run import run_schemathesis
from benchmarks.fuzz.wire_messages import MessageWriter, corrupt, varint

FILES = (
    *(fleet_pb2, mission_pb2, router_pb2, safety_pb2, validation_pb2),
    *(open_inference_pb2, reflection_pb2),
)


def methods() -> Iterator[MethodDescriptor]:
    """Yield all methods of the fleet's services."""
    for file in FILES:
        for service in file.DESCRIPTOR.services_by_name.values():
            yield from service.methods


METHODS = {f"/{one.containing_service.full_name}/{one.name}": one for one in methods()}


@pytest.mark.parametrize("path", sorted(MESSAGES))
def test_examples_are_requests_of_their_method(path: str) -> None:
    """A field that a proto renames is noticed here and not by fewer valid inputs."""
    for example in MESSAGES[path]:
        message = message_factory.GetMessageClass(METHODS[path].input_type)()
        json_format.ParseDict(dict(example), message)


def test_examples_are_bodies_of_existing_routes() -> None:
    """Every route with a body has valid examples."""
    paths = make_app(GatewaySettings()).openapi()["paths"]
    posts = {path for path, verbs in paths.items() if "post" in verbs}

    assert posts == set(BODIES)


@pytest.mark.parametrize("path", sorted(METHODS))
def test_most_messages_are_readable_and_vary(path: str) -> None:
    """A parser reads two messages of three; the same seed gives the same messages."""
    kind = METHODS[path].input_type
    read, different = 0, set()
    writer, again = (MessageWriter(random.Random(7)) for _ in range(2))
    for _ in range(300):
        raw = writer.message(kind)
        assert raw == again.message(kind)
        different.add(raw)
        try:
            message_factory.GetMessageClass(kind)().ParseFromString(raw)
        except DecodeError:
            continue
        read += 1

    assert read >= 180  # of 300, about two of three
    assert len(different) > (8 if kind.fields else 0)


@given(seed=st.integers(0, 2**32))
def test_few_fields_change_a_valid_request(seed: int) -> None:
    """Appended fields win over those before them, or are added to them."""
    random_ = random.Random(seed)
    base = router_pb2.GenerateRequest(prompt="hello", max_tokens=3)
    raw = base.SerializeToString()
    changed = raw + MessageWriter(random_).few_fields(router_pb2.GenerateRequest.DESCRIPTOR)
    try:
        message = router_pb2.GenerateRequest.FromString(changed)
    except DecodeError:
        return

    assert len(changed) == len(raw) or message != base or changed.startswith(raw)


@given(value=st.integers(-(2**63), 2**64 - 1))
def test_varint_is_protobufs(value: int) -> None:
    """The last byte alone has no continuation bit, and the groups give the value back."""
    raw = varint(value)
    decoded = sum((byte & 0x7F) << (7 * index) for index, byte in enumerate(raw))

    assert decoded == value & (2**64 - 1)
    assert [byte >> 7 for byte in raw] == [1] * (len(raw) - 1) + [0]


@settings(deadline=None)
@given(seed=st.integers(0, 2**32), raw=st.binary(max_size=40))
def test_corruption_and_bodies_never_fail(seed: int, raw: bytes) -> None:
    """Any seed makes an input."""
    random_ = random.Random(seed)
    examples = [example for bodies in BODIES.values() for example in bodies]
    before = json.dumps(examples)

    assert isinstance(corrupt(raw, random_), bytes)
    assert isinstance(json_bodies.body(random_, examples, None), bytes)
    assert json.dumps(examples) == before


def test_output_of_schemathesis_is_counted(tmp_path: Path) -> None:
    """A run that generated nothing has not passed."""
    for printed, status, expected in (
        ("  1,514 generated, 1,514 passed", 0, (1514, True)),
        ("  20 generated, 1 found", 1, (20, False)),
        ("no operations", 0, (0, False)),
    ):
        command = tmp_path / "schemathesis"
        command.write_text(f"#!/bin/sh\necho '{printed}'\nexit {status}\n")
        command.chmod(0o700)
        result = run_schemathesis(str(command), "http://127.0.0.1:1")
        assert (result.generated, result.passed) == expected


def test_a_run_passes_only_without_failures_and_restarts() -> None:
    """An internal error, a restart and an empty run each fail it."""
    clean, failed = Outcomes(), Outcomes()
    clean.add("a", "OK", failed=False, payload=b"", detail="")
    failed.add("a", "INTERNAL", failed=True, payload=b"x" * 1_000, detail="boom")

    assert Run(clean, [], 1.0, 0).passed
    assert not Run(clean, ["router"], 1.0, 0).passed
    assert not Run(failed, [], 1.0, 0).passed
    assert not Run(Outcomes(), [], 1.0, 0).passed
    assert Run(failed, [], 1.0, 0).failures["a"][0]["bytes"] == 1_000
