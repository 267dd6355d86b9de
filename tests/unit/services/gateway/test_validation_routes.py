"""Score matrices of validation requests; the routes are in tests/integration."""

from bem_fleet.services.gateway.validation_routes import _matrix, _to_json
from bemfleet.validation.v1 import validation_pb2 as pb


def test_rows_are_seeds_and_a_flat_list_has_none() -> None:
    """A flat list of scores has no seeds of its own; rows are concatenated."""
    assert _matrix([1.0, 2.0]) == pb.ScoreMatrix(values=[1, 2])
    assert _matrix([[1.0], [2.0]]) == pb.ScoreMatrix(seeds=2, values=[1, 2])


def test_record_time_is_a_number() -> None:
    """Protobuf's JSON writes 64-bit integers as text; clients get a number."""
    response = pb.CompareResponse(claim=pb.ClaimRef(id="1-0", recorded_unix_ms=5))

    assert _to_json(response)["claim"]["recorded_unix_ms"] == 5
