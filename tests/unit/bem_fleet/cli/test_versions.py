"""``fleetctl versions`` against a mission of canned responses."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent import futures
from typing import Any

import grpc
import pytest
from bem_fleet.cli import main
from bemfleet.online.v1 import online_pb2 as pb
from bemfleet.online.v1 import online_pb2_grpc as rpc
from fleet.testing import free_port

VERSION = pb.Version(
    number=2,
    parent=1,
    state=pb.VERSION_STATE_ROLLED_BACK,
    changed="abc",
    events={"abc": 8},
    history=[pb.HistoryEntry(unix_s=0, action="roll back", by="ann", reason="it was worse")],
)


class Mission(rpc.OnlineServiceServicer):
    """Answers every call with what it was asked."""

    def Versions(self, request: pb.VersionsRequest, context: Any) -> Any:  # noqa: N802 - gRPC's
        """Return one version."""
        del request, context
        return pb.VersionsResponse(versions=[VERSION], live=1, held=True)

    def Restore(self, request: pb.RestoreRequest, context: Any) -> Any:  # noqa: N802 - gRPC's
        """Refuse version 9."""
        if request.version == 9:
            context.abort(grpc.StatusCode.NOT_FOUND, "version: there is no version 9")
        return pb.RestoreResponse(live=request.version)

    def Explain(self, request: pb.ExplainRequest, context: Any) -> Any:  # noqa: N802 - gRPC's
        """Explain prompts by feedback, and answers by the base model."""
        del context
        if request.answer_id:
            return pb.ExplainResponse(version=1)
        event = pb.LearnedEvent(id="1-0", kind="correction")
        return pb.ExplainResponse(version=1, condition="abc", events=[event], users=5)


@pytest.fixture
def address() -> Iterator[str]:
    """Address of the mission."""
    server = grpc.server(futures.ThreadPoolExecutor(2))
    rpc.add_OnlineServiceServicer_to_server(Mission(), server)  # type: ignore[abstract]
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


def run(capsys: pytest.CaptureFixture[str], address: str, *words: str) -> tuple[int, str]:
    """Run a command; returns its exit code and what it printed."""
    code = main(["versions", "--address", address, *words])
    shown = capsys.readouterr()
    return code, shown.out + shown.err


def test_list_shows_the_last_decision(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    """State, who and why, what is live, and that promotions are held."""
    code, shown = run(capsys, address, "list")

    assert code == 0
    assert "rolled back" in shown
    assert "ann" in shown
    assert "it was worse" in shown
    assert "live: 1; promotions are held" in shown


def test_restore_says_what_is_live_or_why_not(
    address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 0 when it is done, 1 when it is refused, 2 when nobody is there."""
    assert run(capsys, address, "restore", "0") == (0, "the base model is live\n")
    refused = run(capsys, address, "restore", "9")
    nobody = run(capsys, f"127.0.0.1:{free_port()}", "restore", "0")

    assert refused == (1, "NOT_FOUND: version: there is no version 9\n")
    assert nobody[0] == 2


def test_explain_takes_an_answer_or_a_prompt(
    address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """An id of an answer is told by its form."""
    code, base = run(capsys, address, "explain", "answer-0")
    _, learned = run(capsys, address, "explain", "What is it?")

    assert code == 0
    assert base == "no feedback changed it: the base model answers\n"
    assert "condition abc, 5 people" in learned
    assert "1-0 correction" in learned
