"""Certificate authority of tests, made by openssl."""

import shutil
import subprocess
from pathlib import Path

from fleet.certificates import AUTHORITY, CERTIFICATE, KEY

_CURVE = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
_EXTENSIONS = (
    "basicConstraints=critical,CA:FALSE\n"
    "keyUsage=critical,digitalSignature\n"
    "extendedKeyUsage={purposes}\n"
    "subjectAltName={names}\n"
)


class TestAuthority:
    """An authority and the certificates that it signs.

    Args:
        folder: Folder of the authority's files, which is made.
    """

    __test__ = False  # no test class, whatever its name

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self._key, self.certificate = folder / "ca.key", folder / "ca.crt"
        files = ("-keyout", self._key, "-out", self.certificate)
        subject = ("-subj", f"/CN=authority {folder.name}", "-days", "30")
        _openssl("req", "-x509", *_CURVE, *subject, *files)

    def issue(
        self,
        folder: Path,
        *,
        days: int = 2,
        names: str = "DNS:localhost,IP:127.0.0.1",
        purposes: str = "serverAuth,clientAuth",
    ) -> Path:
        """Write key pair and authority into a folder, each file at once; return the folder.

        Args:
            folder: Folder that a process reads; made if it is missing.
            days: Lifetime in days; a negative one has expired.
            names: Alternative names in openssl's form.
            purposes: Extended key usages.
        """
        draft = folder.with_name(f"{folder.name}.draft")
        draft.mkdir(parents=True)
        folder.mkdir(exist_ok=True)
        request, extensions = draft / "request", draft / "extensions"
        extensions.write_text(_EXTENSIONS.format(names=names, purposes=purposes))
        _openssl(
            "req", "-new", *_CURVE, "-subj", "/CN=pod", "-keyout", draft / KEY, "-out", request
        )
        signing = ("-CA", self.certificate, "-CAkey", self._key, "-CAcreateserial")
        _openssl(
            *("x509", "-req", "-in", request, "-out", draft / CERTIFICATE, "-days", str(days)),
            *(*signing, "-extfile", extensions),
        )
        shutil.copy(self.certificate, draft / AUTHORITY)
        for name in (CERTIFICATE, KEY, AUTHORITY):
            (draft / name).replace(folder / name)
        shutil.rmtree(draft)
        return folder


def _openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)
