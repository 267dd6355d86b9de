"""Wire contracts."""

from fleet import wire


def test_every_contract_is_stated_once() -> None:
    """No two contracts share a value, and metadata keys are valid for gRPC."""
    values = [value for name, value in vars(wire).items() if name.isupper()]
    keys = (
        *(wire.REQUEST_ID, wire.TRACEPARENT, wire.SAFETY_STRENGTH),
        *(wire.TENANT, wire.AUTHORIZATION, wire.FORWARDED_BY, wire.SESSION_ID, wire.TRACK),
        *(wire.CLIENT, wire.YIELDS),
    )

    assert len(values) == len(set(values))
    assert all(key == key.lower() and key.replace("-", "").isalnum() for key in keys)
