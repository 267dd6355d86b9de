"""Messages of versions."""

import pytest
from bem_fleet.services.online.version_messages import version_message
from bem_fleet.services.online.version_record import VersionState
from bemfleet.online.v1 import online_pb2 as pb

from tests.unit.services.online.hosts import record


@pytest.mark.parametrize("state", list(VersionState))
def test_every_state_has_a_message(state: VersionState) -> None:
    """The name of the state is that of the enum's value; history keeps its order."""
    made = record(number=1).decided("a", "ann", "x", state).decided("b", "bob", "y", state)
    message = version_message(made)

    assert pb.VersionState.Name(message.state) == f"VERSION_STATE_{state.name}"
    assert [(one.action, one.by) for one in message.history] == [("a", "ann"), ("b", "bob")]
