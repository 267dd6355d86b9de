"""Dashboard page: the static files of ``page/``, under a strict content security policy.

The page itself holds no data: it reads ``/v1/fleet/events`` with the key that a person gives it.
"""

import gzip
import hashlib
from dataclasses import dataclass
from pathlib import Path

from bem_fleet.services.gateway.errors import ApiError
from bem_fleet.services.gateway.route_roles import requires
from fastapi import APIRouter, Request
from fastapi.responses import Response
from fleet.access import Role

routes = APIRouter(include_in_schema=False)
HEADERS = {
    "Content-Security-Policy": "; ".join(
        (
            *("default-src 'none'", "script-src 'self'", "style-src 'self'", "img-src 'self'"),
            *("connect-src 'self'", "base-uri 'none'", "form-action 'none'"),
            *("frame-ancestors 'none'", "require-trusted-types-for 'script'"),
        )
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    # A new version of the gateway is shown at once; the browser asks with the tag of what it has.
    "Cache-Control": "no-cache",
    "Vary": "Accept-Encoding",
}
"""Headers of every file of the page."""

_FOLDER = Path(__file__).with_name("page")
_INDEX = "index.html"
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


@dataclass(frozen=True)
class PageFile:
    """One file of the page.

    Attributes:
        content: Bytes as they are in the folder.
        compressed: The same in gzip.
        media_type: Value of ``Content-Type``.
        tag: Value of ``ETag``.
    """

    content: bytes
    compressed: bytes
    media_type: str
    tag: str


def _read() -> dict[str, PageFile]:
    """Return the files by name: a request names one of them, so that no path is ever joined."""
    files = {}
    for path in sorted(_FOLDER.rglob("*")):
        if path.suffix in _TYPES:
            content = path.read_bytes()
            tag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
            zipped = gzip.compress(content, mtime=0)
            name = path.relative_to(_FOLDER).as_posix()
            files[name] = PageFile(content, zipped, _TYPES[path.suffix], tag)
    return files


FILES = _read()
"""All files of the page by name."""


@routes.get("/")
@requires(Role.OPEN)
async def index(request: Request) -> Response:
    """Return the dashboard page."""
    return _answer(request, FILES[_INDEX])


@routes.get("/ui/{name:path}")
@requires(Role.OPEN)
async def page_file(request: Request, name: str) -> Response:
    """Return a style sheet, a script or an image of the page."""
    file = FILES.get(name)
    if file is None:
        raise ApiError(404, f"{name[:80]!r}: no file of the page", code="file_not_found")
    return _answer(request, file)


def _answer(request: Request, file: PageFile) -> Response:
    headers = {**HEADERS, "ETag": file.tag}
    if request.headers.get("if-none-match") == file.tag:
        return Response(status_code=304, headers=headers)
    if "gzip" in request.headers.get("accept-encoding", ""):
        headers["Content-Encoding"] = "gzip"
        return Response(file.compressed, headers=headers, media_type=file.media_type)
    return Response(file.content, headers=headers, media_type=file.media_type)
