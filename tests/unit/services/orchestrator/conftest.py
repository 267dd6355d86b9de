"""A real API server for the modules that talk to one."""

from collections.abc import AsyncIterator, Iterator

import pytest
from bem_fleet.services.orchestrator.kube.api import KubeApi, connect

from tests.integration.clusters import ControlPlane, control_plane


@pytest.fixture(scope="session")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """An API server with the Mission resource, one for all of these tests."""
    with control_plane(tmp_path_factory.mktemp("plane")) as made:
        yield made


@pytest.fixture
async def api(plane: ControlPlane) -> AsyncIterator[KubeApi]:
    """A client of the API server."""
    client = await connect(str(plane.kubeconfig))
    yield client
    await client.close()
