"""The integration graph."""

from bem_fleet.services.orchestrator.integration_graph import CrossMissionIntegrator

from tests.unit.services.orchestrator.missions import mission

EDGE = [{"mission": "online", "interface": "PolicyUpdateInterface"}]
RUNNING = {"phase": "Running", "readyReplicas": 1}


def test_an_edge_is_healthy_when_both_ends_answer() -> None:
    """Source and target run: there is no problem."""
    graph = CrossMissionIntegrator(
        [mission("router", RUNNING, integrates=EDGE), mission("online", RUNNING)]
    )

    assert [(e.source, e.target, e.problem) for e in graph.edges()] == [
        ("bem/router", "bem/online", "")
    ]


def test_an_edge_names_the_end_that_does_not_answer() -> None:
    """A target that is absent, stopped or pending is said to be."""
    router = mission("router", RUNNING, integrates=EDGE)
    stopped = mission("online", RUNNING, replicas=0)
    pending = mission("online", {"phase": "Pending"})

    problems = [
        CrossMissionIntegrator(missions).edges()[0].problem
        for missions in ([router], [router, stopped], [router, pending])
    ]

    assert problems == [
        "online is not active",
        "online is not active",
        "online is Pending, no pod is ready",
    ]


def test_an_end_that_did_not_answer_its_probe_breaks_the_edge() -> None:
    """A ready pod may refuse its callers: the reason is the probe's."""
    missions = [mission("router", RUNNING, integrates=EDGE), mission("online", RUNNING)]
    graph = CrossMissionIntegrator(missions, {"bem/online": "UNAVAILABLE: closed"})

    assert [one.problem for one in graph.edges()] == ["online does not answer: UNAVAILABLE: closed"]


def test_ends_are_the_active_missions_of_edges() -> None:
    """A mission without an interface is not probed, and one that is not active cannot be."""
    router = mission("router", RUNNING, integrates=EDGE)
    others = [mission("online", RUNNING, replicas=0), mission("sep", RUNNING)]

    assert [one.name for one in CrossMissionIntegrator([router, *others]).ends()] == ["router"]
