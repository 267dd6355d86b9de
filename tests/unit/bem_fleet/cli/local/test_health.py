"""Health of the local fleet."""

from pathlib import Path

from bem_fleet.cli.local.health import first_problem
from bem_fleet.cli.local.plan import Plan
from fleet.testing import free_port


def test_first_service_that_is_away_is_named(tmp_path: Path) -> None:
    """Without any process the first service of the plan is the problem."""
    plan = Plan(run=tmp_path, ports={name: free_port() for name in Plan().ports})

    problem = first_problem(plan)
    assert problem is not None
    assert problem.startswith(f"{plan.services[0].name}: ")
