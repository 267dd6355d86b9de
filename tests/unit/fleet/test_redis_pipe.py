"""Redis URLs of the pipelined connection; real servers are in tests/integration/test_redis_tls."""

import ssl
from pathlib import Path

import pytest
from fleet.redis_pipe import parse_target


def test_url_sets_login_database_and_limits() -> None:
    """Everything that redis-py reads from a URL is read here too, percent-encoding included."""
    target = parse_target(
        "redis://user:s%40fe@redis:6380/2?socket_timeout=0.5&socket_connect_timeout=3", 1.0
    )

    assert (target.host, target.port, target.database) == ("redis", 6380, 2)
    assert (target.username, target.password) == ("user", "s@fe")
    assert (target.timeout_s, target.connect_timeout_s) == (0.5, 3.0)
    assert target.tls is None


def test_tls_verifies_certificate_and_host_unless_told_otherwise() -> None:
    """rediss:// is safe by default; ssl_cert_reqs=none turns verification off."""
    default = parse_target("rediss://redis", 1.0).tls
    off = parse_target("rediss://redis?ssl_cert_reqs=none", 1.0).tls

    assert default is not None
    assert off is not None
    assert (default.verify_mode, default.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert (off.verify_mode, off.check_hostname) == (ssl.CERT_NONE, False)


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("redis://redis?colour=red", "colour"),
        ("redis://redis?ssl_ca_certs=ca.crt", "ssl_ca_certs"),
        ("rediss://redis?ssl_ca_certs={folder}/absent.crt", "ssl_ca_certs"),
        ("rediss://redis?ssl_cert_reqs=perhaps", "ssl_cert_reqs"),
        ("rediss://redis?ssl_colour=red", "ssl_colour"),
    ],
)
def test_option_that_would_be_ignored_is_refused(url: str, named: str, tmp_path: Path) -> None:
    """An unknown option, TLS without rediss:// and an unreadable file stop the start."""
    with pytest.raises(ValueError, match=named):
        parse_target(url.format(folder=tmp_path), 1.0)
