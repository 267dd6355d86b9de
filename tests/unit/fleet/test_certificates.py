"""Certificate between pods: what counts as valid, renewals, and the metrics of its end."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from fleet.certificates import (
    AUTHORITY,
    CERTIFICATE,
    KEY,
    CertificateError,
    CertificateFolder,
    certificates_of,
)
from fleet.settings import FleetSettings, TlsMode
from prometheus_client import REGISTRY

from tests.support.certificates import TestAuthority

DAY_S = 86_400


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> TestAuthority:
    """An authority."""
    return TestAuthority(tmp_path_factory.mktemp("authority") / "fleet")


@pytest.fixture
def folder(authority: TestAuthority, tmp_path: Path) -> Path:
    """A folder with a valid certificate."""
    return authority.issue(tmp_path / "pod")


def sample(name: str, folder: Path) -> float | None:
    """Return a metric of a folder."""
    return REGISTRY.get_sample_value(name, {"folder": str(folder)})


def other_key(authority: TestAuthority, folder: Path) -> None:
    """Put the key of another certificate into a folder."""
    shutil.copy(authority.issue(folder.with_name("other")) / KEY, folder / KEY)


def other_authority(_: TestAuthority, folder: Path) -> None:
    """Put an authority into a folder that did not sign its certificate."""
    made = TestAuthority(folder.with_name("strangers"))
    shutil.copy(made.certificate, folder / AUTHORITY)


def expired(authority: TestAuthority, folder: Path) -> None:
    """Put a certificate into a folder that ended yesterday."""
    authority.issue(folder, days=-1)


def truncated(_: TestAuthority, folder: Path) -> None:
    """Cut a certificate short, as a write that was interrupted does."""
    (folder / CERTIFICATE).write_bytes((folder / CERTIFICATE).read_bytes()[:200])


def missing(_: TestAuthority, folder: Path) -> None:
    """Remove the authority."""
    (folder / AUTHORITY).unlink()


SPOILED = [other_key, other_authority, expired, truncated, missing]


@pytest.mark.parametrize("spoil", SPOILED)
def test_invalid_files_stop_the_start(
    authority: TestAuthority, folder: Path, spoil: Callable[[TestAuthority, Path], None]
) -> None:
    """The error names the folder, so that nobody searches among connections that fail."""
    spoil(authority, folder)

    with pytest.raises(CertificateError, match=f"tls_folder: {folder}"):
        CertificateFolder(folder)


@pytest.mark.parametrize("spoil", SPOILED)
def test_invalid_renewal_leaves_the_last_in_force(
    authority: TestAuthority, folder: Path, spoil: Callable[[TestAuthority, Path], None]
) -> None:
    """A metric shows it, and the next valid renewal is taken."""
    own = CertificateFolder(folder, interval_s=0)
    before = own.current
    spoil(authority, folder)

    assert own.current is before
    assert sample("bem_fleet_certificate_valid", folder) == 0
    authority.issue(folder)
    assert own.current is not before
    assert sample("bem_fleet_certificate_valid", folder) == 1


def test_clients_certificate_is_needed_where_clients_show_one(
    authority: TestAuthority, tmp_path: Path
) -> None:
    """A certificate for servers alone is enough in mode `server` and refused in `mutual`."""
    folder = authority.issue(tmp_path / "pod", purposes="serverAuth")

    assert CertificateFolder(folder, mutual=False).current
    with pytest.raises(CertificateError, match="purpose"):
        CertificateFolder(folder)


def test_seconds_to_expiry_are_those_of_the_newest_certificate(
    authority: TestAuthority, folder: Path
) -> None:
    """A scrape reads the files, so that a renewal shows without a connection; the CA counts too."""
    own = CertificateFolder(folder, interval_s=0)
    first = sample("bem_fleet_certificate_seconds_to_expiry", folder)
    authority.issue(folder, days=9)
    second = sample("bem_fleet_certificate_seconds_to_expiry", folder)
    authority.issue(folder, days=300)

    assert first == pytest.approx(2 * DAY_S, abs=600)
    assert second == pytest.approx(9 * DAY_S, abs=600)
    assert own.seconds_to_expiry() == pytest.approx(30 * DAY_S, abs=3600)  # the authority's end


def test_swapped_mount_is_read_as_a_whole(authority: TestAuthority, tmp_path: Path) -> None:
    """A kubelet replaces one link that all files lie behind."""
    mount, versions = tmp_path / "mount", [tmp_path / "1", tmp_path / "2"]
    for version in versions:
        authority.issue(version)
    mount.mkdir()
    (mount / "..data").symlink_to(versions[0])
    for name in (CERTIFICATE, KEY, AUTHORITY):
        (mount / name).symlink_to(Path("..data") / name)
    own = CertificateFolder(mount, interval_s=0)
    before = own.current
    (mount / "draft").symlink_to(versions[1])
    (mount / "draft").replace(mount / "..data")

    assert own.current.key == (versions[1] / KEY).read_bytes() != before.key


def test_files_are_read_once_in_an_interval(authority: TestAuthority, folder: Path) -> None:
    """Handshakes in between cost no reads, and the object stays the same."""
    own = CertificateFolder(folder, interval_s=3600)
    before = own.current
    authority.issue(folder)

    assert own.current is before


def test_settings_without_tls_have_no_certificate(folder: Path) -> None:
    """A folder alone turns nothing on; a process has one certificate for all its connections."""
    mutual = FleetSettings(tls_mode=TlsMode.MUTUAL, tls_folder=folder)

    assert certificates_of(FleetSettings(tls_folder=folder)) is None
    assert certificates_of(mutual) is certificates_of(mutual)
