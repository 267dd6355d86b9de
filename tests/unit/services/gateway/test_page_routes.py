"""Files of the dashboard page and their headers."""

import gzip
import re

import httpx
import pytest
from bem_fleet.services.gateway.app import make_app
from bem_fleet.services.gateway.page_routes import FILES
from bem_fleet.services.gateway.settings import GatewaySettings


@pytest.fixture
def http() -> httpx.AsyncClient:
    """A client of a gateway that has not opened its clients: the page needs none."""
    transport = httpx.ASGITransport(make_app(GatewaySettings()))
    return httpx.AsyncClient(transport=transport, base_url="http://gateway")


async def test_page_needs_no_key_and_runs_its_own_scripts_only(http: httpx.AsyncClient) -> None:
    """The policy forbids inline scripts and styles, frames, and every other origin."""
    answer = await http.get("/")
    policy = answer.headers["content-security-policy"]

    assert answer.status_code == 200
    assert "<h1>" in answer.text
    for rule in ("default-src 'none'", "script-src 'self'", "frame-ancestors 'none'"):
        assert rule in policy
    assert "unsafe" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"


async def test_every_file_is_served_with_its_type(http: httpx.AsyncClient) -> None:
    """Compressed for who takes it, and not again for who has it."""
    for name, file in FILES.items():
        answer = await http.get(f"/ui/{name}", headers={"accept-encoding": "gzip"})
        plain = await http.get(f"/ui/{name}", headers={"accept-encoding": "identity"})
        again = await http.get(f"/ui/{name}", headers={"if-none-match": file.tag})

        assert answer.headers["content-encoding"] == "gzip"
        assert answer.content == plain.content == file.content == gzip.decompress(file.compressed)
        assert answer.headers["content-type"] == file.media_type
        assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize("name", ["nothing.js", "../settings.py", "%2e%2e/settings.py", ""])
async def test_other_files_are_not_served(http: httpx.AsyncClient, name: str) -> None:
    """A name outside the page is unknown, whatever it leads to."""
    answer = await http.get(f"/ui/{name}")

    assert answer.status_code == 404
    assert "BEM_GATEWAY" not in answer.text


def test_files_name_no_other_origin_and_import_what_exists() -> None:
    """Nothing is loaded from elsewhere, and no import leads nowhere."""
    modules = {name: file for name, file in FILES.items() if not name.startswith("vendor/")}
    for name, file in modules.items():
        text = file.content.decode()
        addresses = set(re.findall(r"https?://[^\s\"']+", text))
        assert addresses <= {"http://www.w3.org/2000/svg"}, name
        assert "innerHTML" not in text, name
        for imported in re.findall(r'from "\./([^"]+)"', text):
            assert imported in FILES, f"{name}: {imported}"
    linked = re.findall(r'(?:src|href)="ui/([^"]+)"', FILES["index.html"].content.decode())

    assert set(linked) <= FILES.keys()
    assert {name for name in modules if name.endswith(".js")} <= set(linked)
