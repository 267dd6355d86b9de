"""Process plan of the local fleet."""

import json
from pathlib import Path

import pytest
from bem_fleet.cli.local.plan import Plan, Program
from bem_fleet.descriptors import load_descriptors


def programs_of(run: Path) -> dict[str, Program]:
    """Return the plan's programs by name."""
    return {program.name: program for program in Plan(run=run).programs()}


def test_mission_has_no_network_port(tmp_path: Path) -> None:
    """The router is given a unix socket, and its sidecar the same one as upstream."""
    programs = programs_of(tmp_path)

    address = programs["router"].environment["BEM_ROUTER_ADDRESS"]
    assert address.startswith("unix:")
    assert programs["router-sidecar"].environment["BEM_SAFETY_UPSTREAM"] == address


def test_every_mission_has_a_sidecar_and_all_share_one_scorer(tmp_path: Path) -> None:
    """Each sidecar has ports of its own and the scorer's socket."""
    plan = Plan(run=tmp_path)
    programs = programs_of(tmp_path)
    scorer = programs["scorer"].environment["BEM_SAFETY_SCORER_SOCKET"]
    sidecars = [one for name, one in programs.items() if name.endswith("-sidecar")]

    assert len(sidecars) == len(plan.specs) >= 1
    assert {one.environment["BEM_SAFETY_SCORER_SOCKET"] for one in sidecars} == {scorer}
    assert len({one.environment["BEM_SAFETY_ADDRESS"] for one in sidecars}) == len(sidecars)
    assert len({one.environment["BEM_SAFETY_PAGES_ADDRESS"] for one in sidecars}) == len(sidecars)


def test_gateway_knows_every_mission(tmp_path: Path) -> None:
    """The gateway's setting is a JSON object from each mission to its sidecar."""
    plan = Plan(run=tmp_path)
    environment = programs_of(tmp_path)["gateway"].environment

    assert json.loads(environment["BEM_GATEWAY_MISSIONS"]) == {
        name: plan.address(name) for name in plan.specs
    }


def test_every_metrics_page_is_a_scrape_target(tmp_path: Path) -> None:
    """Sidecars, the missions behind them, their helpers and all control services are scraped."""
    targets = Plan(run=tmp_path).scrape_targets()
    pages = {(one["labels"]["pod"], one["labels"]["__metrics_path__"]) for one in targets}

    sidecars = [f"{name}-sidecar" for name in Plan(run=tmp_path).specs]
    controls = [one.name for one in load_descriptors() if one.kind == "control"]
    helpers = ["scorer", "witness"]

    assert pages == {
        *((name, "/metrics") for name in (*sidecars, *helpers, *controls)),
        *((name, "/upstream/metrics") for name in sidecars),
    }
    processes = [one["labels"]["process"] for one in targets]
    assert len(set(processes)) == len(targets)
    assert {"router", "router-sidecar", "gateway"} <= set(processes)
    assert len({one["targets"][0] for one in targets}) == len(sidecars) + len(helpers) + len(
        controls
    )


def test_long_run_folder_gets_short_sockets(tmp_path: Path) -> None:
    """A path that no unix socket can have moves to a short folder, always the same one."""
    plan = Plan(run=tmp_path / ("x" * 120))

    assert len(str(plan.sockets / "supervisor.sock")) <= 100
    assert plan.sockets == Plan(run=plan.run).sockets
    assert Plan(run=tmp_path / "y").sockets == tmp_path / "y"


def test_ports_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every port can be moved."""
    monkeypatch.setenv("GATEWAY_PORT", "18080")
    monkeypatch.setenv("REDIS_PORT", "")

    assert Plan().ports["GATEWAY_PORT"] == 18080
    assert Plan().ports["REDIS_PORT"] == 6379


def test_setting_of_the_environment_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A described setting can be overridden; an address that wires the fleet cannot."""
    monkeypatch.setenv("BEM_ROUTER_CACHE", "elsewhere")
    monkeypatch.setenv("BEM_ROUTER_ADDRESS", "0.0.0.0:1")
    environment = programs_of(tmp_path)["router"].environment

    assert environment["BEM_ROUTER_CACHE"] == "elsewhere"
    assert environment["BEM_ROUTER_ADDRESS"].startswith("unix:")


def test_tracing_is_set_for_all_services_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One variable of the caller traces gateway, missions and sidecars; unset, none is."""
    before = [key for one in programs_of(tmp_path).values() for key in one.environment]
    monkeypatch.setenv("OTLP_ENDPOINT", "127.0.0.1:4317")
    monkeypatch.setenv("BEM_SEP_OTLP_ENDPOINT", "127.0.0.1:4318")
    programs = programs_of(tmp_path)

    assert not [key for key in before if "OTLP" in key]
    assert programs["gateway"].environment["BEM_GATEWAY_OTLP_ENDPOINT"] == "127.0.0.1:4317"
    assert programs["router-sidecar"].environment["BEM_SAFETY_OTLP_ENDPOINT"] == "127.0.0.1:4317"
    assert programs["sep"].environment["BEM_SEP_OTLP_ENDPOINT"] == "127.0.0.1:4318"
    assert "BEM_GATEWAY_TRACE_RATIO" not in programs["gateway"].environment


def test_each_service_logs_in_to_redis_as_itself(tmp_path: Path) -> None:
    """A service that states no access gets no login; no process gets another's or the admin's."""
    plan = Plan(run=tmp_path)
    plan.secrets.mkdir()
    plan.credentials.ensure(plan.redis_rules, [])
    logins = {
        name: {key: value for key, value in one.environment.items() if key.endswith("_REDIS_URL")}
        for name, one in programs_of(tmp_path).items()
    }
    helpers = [helper for one in plan.services for helper in one.local.helpers]
    users = {one.name: one.name for one in plan.services if one.redis}
    users |= {helper.name: helper.name for helper in helpers if helper.redis}
    users = {**users, **{f"{name}-sidecar": "safety" for name in plan.specs}}

    for name, found in logins.items():
        expected = [plan.redis_url(users[name])] if name in users else []
        assert list(found.values()) == expected, name
    assert plan.credentials.redis_password("gateway") in str(logins["gateway"])
    assert not any("redis://" in word for one in plan.programs() for word in one.command)
    assert "users.acl" in str(plan.programs()[0].command)


def test_gateway_reads_every_metrics_page_but_its_own(tmp_path: Path) -> None:
    """The dashboard page shows the same processes that Prometheus scrapes."""
    plan = Plan(run=tmp_path)
    scraped = {
        f"{one['targets'][0]}{one['labels']['__metrics_path__']}" for one in plan.scrape_targets()
    }
    own = f"{plan.address('gateway')}/metrics"

    assert {*plan.metrics_pages.values(), own} == scraped
