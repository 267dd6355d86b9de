"""Table of roles in docs/security.md."""

from bem_fleet.checkout import ROOT

from tools.access_table import access_rows


def test_table_has_every_rpc_and_route() -> None:
    """Roles come from the protos' options and the routes' declarations."""
    rows = {name: role for _, name, role in access_rows(ROOT)}

    assert rows["`bemfleet.router.v1.RouterService/Generate`"] == "user"
    assert rows["`bemfleet.mission.v1.MissionService/LoadAdapter`"] == "operator"
    assert rows["`inference.GRPCInferenceService/ServerLive`"] == "open"
    assert rows["`POST /v1/chat/completions`"] == "user"
    assert rows["`GET /v1/validation/claims`"] == "operator"
    assert rows["`POST /v1/missions/{mission}/{method}`"] == "that of the method"
