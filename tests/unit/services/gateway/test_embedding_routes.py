"""Embedding route: bodies, numbers and errors; calls over real sockets are in tests/integration."""

import base64
from typing import Any

import numpy as np
import pytest
from bem_fleet.services.gateway.embedding_routes import (
    PART_INPUTS,
    EmbeddingRequest,
    embedding_error,
    encode_values,
    mission_request,
    routes,
)
from fleet.errors import InvalidArgumentError
from pydantic import ValidationError

from tests.unit.services.gateway.test_openai_errors import rpc_error


def body(given: Any, **fields: Any) -> EmbeddingRequest:
    """Return a parsed body."""
    return EmbeddingRequest.model_validate({"model": "sep-embedding", "input": given, **fields})


def test_path_is_openais() -> None:
    """One route."""
    assert [route.path for route in routes.routes] == ["/v1/embeddings"]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("a", ["a"]),
        (["a", "b"], ["a", "b"]),
        ([1, 2], [[1, 2]]),
        ([[1, 2], [3]], [[1, 2], [3]]),
    ],
)
def test_the_four_forms_of_an_input_are_read(given: Any, wanted: Any) -> None:
    """A text, texts, ids of a text, ids of texts."""
    message = mission_request(body(given, dimensions=8), 0)

    assert [list(one.tokens.ids) or one.text for one in message.inputs] == wanted
    assert (message.dimensions, message.model) == (8, "sep-embedding")


def test_many_texts_are_sent_in_parts() -> None:
    """A part begins where the one before ended."""
    texts = [str(number) for number in range(PART_INPUTS + 3)]
    first, second = (mission_request(body(texts), at) for at in (0, PART_INPUTS))

    assert [one.text for one in (*first.inputs, *second.inputs)] == texts
    assert not first.HasField("dimensions")


@pytest.mark.parametrize(
    "fields",
    [
        {"input": ""},
        {"input": []},
        {"input": [""]},
        {"input": [[]]},
        {"input": ["a", [1]]},
        {"input": ["a"] * 2049},
        {"input": [-1]},
        {"input": "a", "encoding_format": "int8"},
        {"input": "a", "dimensions": 0},
        {"input": "a", "model": ""},
        {"input": "a", "modell": "x"},
    ],
)
def test_other_bodies_are_refused(fields: dict[str, Any]) -> None:
    """Limits are OpenAI's."""
    with pytest.raises(ValidationError):
        EmbeddingRequest.model_validate({"model": "m", **fields})


def test_numbers_are_floats_or_base64_of_float32() -> None:
    """Base64 is little-endian, as clients decode it."""
    values = [0.5, -0.25, 3.0]
    coded = encode_values(values, "base64")

    assert encode_values(values, None) == values == encode_values(values, "float")
    assert np.frombuffer(base64.b64decode(str(coded)), "<f4").tolist() == values


@pytest.mark.parametrize(
    ("field", "at", "param"),
    [("inputs[3]", 64, "input.67"), ("inputs", 0, "input"), ("dimensions", 0, "dimensions")],
)
def test_errors_name_the_field_that_the_caller_sent(field: str, at: int, param: str) -> None:
    """A text has its number in the whole request."""
    error = embedding_error(rpc_error(InvalidArgumentError(field, "is too long")), at)

    assert (error.status, error.body["param"]) == (400, param)
    assert error.body["message"] == f"{param}: is too long"
