"""Hub models over real HTTP: a local server speaks the part of the hub that is needed."""

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from bem.backbone import load_backbone, locate_model
from bem.errors import BackboneNotFoundError
from bem.hub import download_model, is_hub_name
from fleet.testing import free_port

from tests.support.tiny_models import save_folder, tiny_model

COMMIT = "c" * 40


class Hub(BaseHTTPRequestHandler):
    """Serves one repository, ``acme/small``, from a folder."""

    folder: Path

    def do_HEAD(self) -> None:
        """Describe a file."""
        self._answer(body=False)

    def do_GET(self) -> None:
        """Send the list of files, or a file."""
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        path = self.path.partition("?")[0]
        if path.startswith("/api/models/acme/small/tree/"):
            sizes = {one.name: one.stat().st_size for one in self.folder.iterdir()}
            entries = [
                {"type": "file", "path": name, "size": size, "oid": f"{size:040x}"}
                for name, size in sizes.items()
            ]
            content = json.dumps(entries).encode()
        elif path.startswith("/api/models/acme/small"):
            files = [{"rfilename": one.name} for one in sorted(self.folder.iterdir())]
            content = json.dumps({"id": "acme/small", "sha": COMMIT, "siblings": files}).encode()
        elif path.startswith(f"/acme/small/resolve/{COMMIT}/"):
            content = (self.folder / path.rpartition("/")[2]).read_bytes()
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[str]:
    """URL of a hub with one model and a pickle beside it."""
    folder = save_folder(tmp_path / "small", tiny_model("llama"))
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    handler = type("OneHub", (Hub,), {"folder": folder})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_model_is_downloaded_without_pickles_and_served(tmp_path: Path, hub: str) -> None:
    """Weights, configuration and tokenizer arrive; the folder loads."""
    folder = download_model("acme/small", tmp_path / "cache", hub)

    assert not (folder / "pytorch_model.bin").exists()
    assert len(load_backbone(str(folder), cache=tmp_path).layers) == 3
    # Once it is on this machine, the hub is not needed.
    closed = f"http://127.0.0.1:{free_port()}"
    assert download_model("acme/small", tmp_path / "cache", closed) == folder


def test_unknown_model_and_unreachable_hub_say_so(tmp_path: Path, hub: str) -> None:
    """The text tells a wrong name from a missing connection."""
    with pytest.raises(BackboneNotFoundError, match="does not give acme/other"):
        download_model("acme/other", tmp_path, hub)
    closed = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(BackboneNotFoundError, match=r"the hub cannot be reached.*give its folder"):
        download_model("acme/small", tmp_path / "new", closed)


def test_names_of_the_hub_are_told_from_paths(tmp_path: Path) -> None:
    """A path that is missing is not asked for at the hub."""
    assert is_hub_name("HuggingFaceTB/SmolLM2-135M-Instruct")
    for path in ("./x/y", "/x/y", "x", "a/b/c", "a/../b", "", "a b/c"):
        assert not is_hub_name(path)
    with pytest.raises(BackboneNotFoundError, match="nor owner/name"):
        locate_model("/no/such/model", tmp_path)
