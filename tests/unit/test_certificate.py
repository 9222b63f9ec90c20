"""The certificate of a node: what it holds, when it is taken, and when it is warned of."""

from __future__ import annotations

import logging
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from trishula.cli.pki import Authority
from trishula.node.certificate import Tls, days_left
from trishula.node.config import Config
from trishula.protocol.errors import ConfigError

DAY = 24 * 3600 * 1000

Pair = tuple[bytes, bytes]


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture
def config(tmp_path: Path, authority: Authority) -> Config:
    paths = {"certificate": tmp_path / "node.crt", "private_key": tmp_path / "node.key", "ca": tmp_path / "ca.crt"}
    paths["ca"].write_bytes(authority.certificate)
    put(tmp_path, authority.issue("mac"))
    return cast(Config, SimpleNamespace(**paths, public_roots=False))


def put(folder: Path, pair: Pair) -> None:
    (folder / "node.crt").write_bytes(pair[0])
    (folder / "node.key").write_bytes(pair[1])


def openssl(path: Path, what: str) -> str:
    return subprocess.check_output(["openssl", "x509", "-noout", what, "-in", path], text=True).strip().split("=")[1]


def test_it_is_what_openssl_reads_in_the_file(config: Config) -> None:
    certificate = Tls(config).certificate
    assert certificate.serial == openssl(config.certificate, "-serial")
    assert 29 * DAY < certificate.not_after - certificate.not_before <= 31 * DAY


def test_the_first_of_a_chain_is_the_nodes_own(config: Config, authority: Authority) -> None:
    config.certificate.write_bytes(config.certificate.read_bytes() + authority.certificate)
    assert Tls(config).certificate.serial == openssl(config.certificate, "-serial")


def test_a_new_pair_takes_the_place_of_the_old(config: Config, authority: Authority, tmp_path: Path) -> None:
    tls = Tls(config)
    server, old = tls.server(), tls.certificate
    put(tmp_path, authority.issue("mac"))
    tls.reload(old.not_before + DAY)
    assert tls.server() is not server
    assert tls.certificate.serial == openssl(config.certificate, "-serial") != old.serial
    assert tls.refused == ""


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("node.key", Authority().issue("mac")[1], "don't make a pair"),
        ("node.crt", b"no certificate", "don't make a pair"),
        ("node.crt", None, "don't make a pair"),
        ("ca.crt", b"no certificate", "is no CA file"),
    ],
)
def test_what_is_not_whole_is_refused_and_the_old_one_serves_on(
    config: Config,
    authority: Authority,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    name: str,
    content: bytes | None,
    why: str,
) -> None:
    tls = Tls(config)
    before = (tls.server(), tls.client(), tls.certificate)
    put(tmp_path, authority.issue("mac"))
    (tmp_path / name).unlink() if content is None else (tmp_path / name).write_bytes(content)
    tls.reload(tls.certificate.not_before + DAY)
    assert (tls.server(), tls.client(), tls.certificate) == before
    assert why in tls.refused
    (line,) = caplog.records
    assert line.levelno == logging.ERROR
    assert f"the old one (serial {before[2].serial}" in line.getMessage()
    assert why in line.getMessage()


@pytest.mark.parametrize("days", [-1, 31])
def test_one_that_does_not_hold_now_is_refused(config: Config, authority: Authority, tmp_path: Path, days: int) -> None:
    tls = Tls(config)
    old = tls.certificate
    put(tmp_path, authority.issue("mac"))
    tls.reload(old.not_before + days * DAY)
    assert tls.certificate == old
    assert "it is 20" in tls.refused


def test_one_of_another_authority_is_refused_and_the_old_one_serves_on(config: Config, tmp_path: Path) -> None:
    # Links that are up would stay, and none would come up again.
    tls = Tls(config)
    old = tls.certificate
    put(tmp_path, Authority("Somebody else's CA").issue("mac"))
    tls.reload(old.not_before + DAY)
    assert tls.certificate == old
    assert "is not signed by the mesh's CA, so no peer would trust it" in tls.refused
    assert tls.status()["distrusted"] == ""


@pytest.mark.parametrize("public_roots", [True, False])
def test_one_of_a_public_authority_is_taken_where_the_mesh_trusts_them(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, public_roots: bool
) -> None:
    public = Authority("A public CA")
    roots = tmp_path / "roots.pem"
    roots.write_bytes(public.certificate)
    monkeypatch.setenv("SSL_CERT_FILE", str(roots))
    cast(Any, config).public_roots = public_roots
    tls = Tls(config)
    put(tmp_path, public.issue("mac"))
    tls.reload(tls.certificate.not_before + DAY)
    assert bool(tls.refused) != public_roots


def test_one_that_no_peer_trusts_is_served_at_the_start_and_said(
    config: Config, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put(tmp_path, Authority("Somebody else's CA").issue("mac"))
    tls = Tls(config)
    assert tls.status()["distrusted"]
    tls.warn(tls.certificate.not_before)
    assert "peers don't trust the certificate" in caplog.text


def test_a_refusal_is_forgotten_when_the_files_are_good_again(
    config: Config, authority: Authority, tmp_path: Path
) -> None:
    tls = Tls(config)
    (tmp_path / "node.key").write_bytes(authority.issue("mac")[1])
    tls.reload(tls.certificate.not_before + DAY)
    assert tls.status()["refused"]
    put(tmp_path, authority.issue("mac"))
    tls.reload(tls.certificate.not_before + DAY)
    assert tls.status()["refused"] == ""


def test_one_that_is_out_of_date_at_the_start_is_served_all_the_same(config: Config) -> None:
    # The node still dials, and serves its agents: down it would help nobody.
    tls = Tls(config)
    assert days_left(tls.certificate, tls.certificate.not_after + 1) == -1


def test_no_pair_at_the_start_is_an_error(config: Config, authority: Authority, tmp_path: Path) -> None:
    (tmp_path / "node.key").write_bytes(authority.issue("mac")[1])
    with pytest.raises(ConfigError, match="don't make a pair"):
        Tls(config)


def test_the_journal_warns_once_a_day_from_14_days_on(config: Config, caplog: pytest.LogCaptureFixture) -> None:
    tls = Tls(config)
    end = tls.certificate.not_after
    for hours in range(20 * 24, -3 * 24, -1):
        tls.warn(end - hours * DAY // 24)
    said = [record.getMessage() for record in caplog.records]
    assert [line for line in said if "ends in" in line] == [
        line for days in range(13, -1, -1) for line in said if f" ends in {days} d:" in line
    ]
    assert len(said) == 14 + 3
    assert all("IS OUT OF DATE, and no peer takes it" in line for line in said[14:])


def test_a_new_certificate_is_warned_of_anew(
    config: Config, authority: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tls = Tls(config)
    now = tls.certificate.not_after - 3 * DAY
    tls.warn(now)
    put(tmp_path, authority.issue("mac"))
    tls.reload(now)
    tls.warn(now)
    warnings: list[Any] = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 2
