"""Where a certificate comes from: what is asked before, how it is put in place, and who trusts it."""

from __future__ import annotations

import configparser
import datetime as dt
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from tests.contract.conftest import ROOT, Site, _render, filters, run_role

from trishula.node.certificate import WARN_DAYS
from trishula.node.checks import EXPIRES_SOON_S

if TYPE_CHECKING:
    from types import ModuleType

PUBLIC = "https://acme-v02.api.letsencrypt.org/directory"
STAGING = "https://acme-staging-v02.api.letsencrypt.org/directory"
OURS = "https://pebble:14000/dir"

NAME = "agni.example.org"
FINE = f"A {NAME} 192.0.2.15\nAAAA {NAME} 2001:db8::15\nhere 127.0.0.1/8\nhere 192.0.2.15/24\nhere 2001:db8::15/64\n"


@pytest.fixture(scope="module")
def tls() -> ModuleType:
    return filters("trishula_tls")


@pytest.fixture(scope="module")
def public() -> Site:
    """The site of Molecule's scenario: agni has a public certificate, mac is behind NAT."""
    inventory = str(ROOT / "molecule/letsencrypt/inventory")
    return Site(inventory, _render(inventory, {}))


# ── Before anything is asked of the CA ──────────────────────────────────────────────────────────────────────────────


def mistakes(
    tls: ModuleType, answers: str, *names: str, directory: str = PUBLIC, reached_at: tuple[str, ...] = ()
) -> str:
    return " | ".join(tls.letsencrypt_mistakes(answers, list(names or (NAME,)), [], list(reached_at), directory))


def test_a_name_that_leads_here_is_fine(tls: ModuleType) -> None:
    # A public suffix of the tests: nobody may have .example.org, and it is no private one.
    assert mistakes(tls, FINE) == ""


@pytest.mark.parametrize("name", ["agni.vps", "agni.local", "agni.home.arpa", "AGNI.Internal"])
def test_a_private_name_is_refused_by_the_public_cas_only(tls: ModuleType, name: str) -> None:
    answers = FINE.replace(NAME, name)
    for directory in (PUBLIC, STAGING):
        assert f"'{name}' is private, nobody outside resolves" in mistakes(tls, answers, name, directory=directory)
    assert mistakes(tls, answers, name, directory=OURS) == ""


def test_a_short_name_is_refused(tls: ModuleType) -> None:
    assert "'agni' is no full name: set trishula_address to one such as agni.example.org" in mistakes(tls, FINE, "agni")


def test_an_address_is_refused(tls: ModuleType) -> None:
    (said,) = tls.letsencrypt_mistakes(FINE, [], ["192.0.2.15"], [], PUBLIC)
    assert said.startswith("'192.0.2.15' is an address, and it certifies names")


def test_a_name_without_a_record_is_refused(tls: ModuleType) -> None:
    assert f"'{NAME}' has no A record" in mistakes(tls, "here 192.0.2.15/24\n")


def test_an_a_record_of_another_host_is_refused(tls: ModuleType) -> None:
    said = mistakes(tls, FINE.replace(f"A {NAME} 192.0.2.15", f"A {NAME} 203.0.113.9", 1))
    assert f"the A record of '{NAME}' is 203.0.113.9, and this host has 192.0.2.15: mend the record" in said


def test_behind_a_nat_of_one_to_one_its_outer_address_is_this_host(tls: ModuleType) -> None:
    answers = FINE.replace(f"A {NAME} 192.0.2.15", f"A {NAME} 203.0.113.9", 1)
    assert mistakes(tls, answers, reached_at=("203.0.113.9",)) == ""


def test_an_aaaa_record_that_the_host_does_not_answer_on_is_refused(tls: ModuleType) -> None:
    said = mistakes(tls, FINE.replace("here 2001:db8::15/64\n", ""))
    assert f"the AAAA record of '{NAME}' is 2001:db8::15, and this host has none: the CA asks there first" in said


def test_a_busy_port_80_is_refused_by_who_has_it(tls: ModuleType) -> None:
    busy = 'busy LISTEN 0 511 0.0.0.0:80 0.0.0.0:* users:(("nginx",pid=7,fd=6))\n'
    assert mistakes(tls, FINE + busy).startswith("port 80 is in use by nginx, and the CA looks there")


def test_without_an_email_the_role_stops(tmp_path: Path) -> None:
    host = {
        "trishula_tls_provider": "letsencrypt",
        "trishula_tls_common_name": "agni",
        "trishula_tls_dir": str(tmp_path),
        "trishula_tls_ca_dir": str(tmp_path),
        "trishula_tls_nodes": ["agni"],
    }
    run = run_role(tmp_path, "trishula_tls", "preflight", {"agni": host})
    assert run.returncode == 2
    assert "trishula_tls_letsencrypt_email is ''. Set it to an address that is read" in " ".join(run.stdout.split())


# ── A pair that is provided ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("held", "missing"),
    [
        (["DNS:agni.example.org", "IP:192.0.2.15"], []),
        (["DNS:*.example.org"], ["192.0.2.15"]),
        (["DNS:*.org", "IP:192.0.2.16"], ["agni.example.org", "192.0.2.15"]),
        ([], ["agni.example.org", "192.0.2.15"]),
    ],
)
def test_names_that_a_certificate_does_not_hold_for_are_found(
    tls: ModuleType, held: list[str], missing: list[str]
) -> None:
    assert tls.names_missing(["DNS:agni.example.org", "IP:192.0.2.15"], held) == missing


def pair(folder: Path, name: str, *, days: int = 30) -> tuple[Path, Path]:
    """A certificate and its key, in files."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=60))
        .not_valid_after(now + dt.timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    paths = (folder / f"{name}.crt", folder / f"{name}.key")
    paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    plain = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    paths[1].write_bytes(key.private_bytes(*plain))
    return paths


def provided(folder: Path, certificate: Path, key: Path) -> str:
    """What the preflight says that stops, or nothing."""
    host = {
        "trishula_tls_provider": "provided",
        "trishula_tls_common_name": "agni",
        "trishula_tls_names": ["agni.example.org"],
        "trishula_tls_dir": str(folder / "host"),
        "trishula_tls_ca_dir": str(folder / "secrets"),
        "trishula_tls_nodes": ["agni"],
        "trishula_tls_provided_certificate": str(certificate),
        "trishula_tls_provided_key": str(key),
    }
    run = run_role(folder, "trishula_tls", "preflight", {"agni": host})
    assert "PRIVATE KEY" not in run.stdout + run.stderr
    assert "changed=0" in run.stdout
    return "" if run.returncode == 0 else " ".join(run.stdout.split())


def test_a_pair_that_is_provided_is_read_before_anything_is_changed(tmp_path: Path) -> None:
    good, other = pair(tmp_path, "agni.example.org"), pair(tmp_path, "mac.example.org")
    assert provided(tmp_path, *good) == ""
    assert f"{other[1]} is not the key of {good[0]}. Nothing was changed" in provided(tmp_path, good[0], other[1])
    assert "and other nodes dial agni as agni.example.org" in provided(tmp_path, *other)
    old = pair(tmp_path, "agni.example.org", days=-1)
    assert "and not now. Get a new one" in provided(tmp_path, *old)


# ── Put in place ────────────────────────────────────────────────────────────────────────────────────────────────────


def put_in_place(public: Site, folder: Path, certificate: Path, key: Path) -> subprocess.CompletedProcess[str]:
    tls = folder / "tls"
    tls.mkdir(exist_ok=True)
    told = public.rendered_with(
        trishula_tls_dir=str(tls), trishula_tls_group=str(tls.stat().st_gid), trishula_tls_reload="echo reloaded"
    )
    script = folder / "install-pair"
    script.write_text(told.rendered("agni", "install-pair"))
    return subprocess.run(["sh", script, certificate, key], check=False, capture_output=True, text=True)


def test_a_pair_is_put_in_place_whole_and_the_node_is_told(public: Site, tmp_path: Path) -> None:
    certificate, key = pair(tmp_path, "agni")
    run = put_in_place(public, tmp_path, certificate, key)
    assert (run.returncode, run.stdout) == (0, "reloaded\n"), run.stderr
    assert (tmp_path / "tls/node.crt").read_bytes() == certificate.read_bytes()
    assert (tmp_path / "tls/node.key").read_bytes() == key.read_bytes()
    assert {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "tls").iterdir()} == {
        "node.crt": 0o640,
        "node.key": 0o640,
    }


@pytest.mark.parametrize(
    ("certificate", "key", "why"),
    [
        ("agni.crt", "mac.key", "mac.key is not its key"),
        ("agni.key", "agni.key", "it is no certificate"),
        ("old.crt", "old.key", "it does not hold today"),
    ],
)
def test_what_is_no_pair_of_today_changes_nothing(
    public: Site, tmp_path: Path, certificate: str, key: str, why: str
) -> None:
    pair(tmp_path, "old", days=-1)
    first = pair(tmp_path, "mac")
    assert put_in_place(public, tmp_path, *first).returncode == 0
    pair(tmp_path, "agni")
    run = put_in_place(public, tmp_path, tmp_path / certificate, tmp_path / key)
    assert run.returncode == 1
    assert run.stdout == ""
    assert f"{certificate} is not put in place, the old certificate serves on: " in run.stderr
    assert why in run.stderr
    assert [(tmp_path / "tls" / name).read_bytes() for name in ("node.crt", "node.key")] == [
        path.read_bytes() for path in first
    ]


# ── Port 80, with a ufw that keeps its rules in a file ──────────────────────────────────────────────────────────────

UFW = """#!/bin/sh
rules=$(dirname "$0")/rules
case "$*" in
  "show added") cat "$rules" ;;
  status) echo "Status: active" ;;
  "allow 80/tcp comment trishula: letsencrypt") echo "ufw allow 80/tcp comment 'trishula: letsencrypt'" >>"$rules" ;;
  "delete allow 80/tcp") sed -i "/^ufw allow 80.tcp/d" "$rules" ;;
  *) echo "what is $*?" >&2; exit 1 ;;
esac
"""
SSH = "ufw allow 22/tcp comment 'trishula: ssh'"
OPEN = "ufw allow 80/tcp comment 'trishula: letsencrypt'"


@pytest.mark.parametrize(
    ("before", "while_it_asks"),
    [
        ([SSH], [SSH, OPEN]),
        ([SSH, OPEN], [SSH, OPEN]),  # a run that ended in the midst left it open
        ([SSH, "ufw allow 80/tcp"], [SSH, "ufw allow 80/tcp"]),
        ([SSH, "ufw limit 80/tcp comment 'web'"], [SSH, "ufw limit 80/tcp comment 'web'"]),
    ],
)
def test_port_80_is_open_only_while_the_ca_asks_and_an_operators_rule_stays(
    public: Site, tmp_path: Path, before: list[str], while_it_asks: list[str]
) -> None:
    rules, ufw = tmp_path / "rules", tmp_path / "ufw"
    ufw.write_text(UFW)
    ufw.chmod(0o755)
    script = tmp_path / "port-80"
    script.write_text(public.rendered("agni", "port-80"))
    rules.write_text("".join(f"{rule}\n" for rule in before))
    path = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    subprocess.run(["sh", script, "open"], check=True, env=path)
    assert rules.read_text().splitlines() == while_it_asks
    subprocess.run(["sh", script, "close"], check=True, env=path)
    assert rules.read_text().splitlines() == [rule for rule in before if rule != OPEN]


# ── Who has which, and who trusts it ────────────────────────────────────────────────────────────────────────────────


def test_a_public_certificate_has_the_public_name_alone(public: Site) -> None:
    assert public.argument("agni", "trishula_tls_names") == ["agni.mesh.internal"]
    assert public.argument("agni", "trishula_tls_addresses") == []
    assert "mac" in public.argument("mac", "trishula_tls_names")


def test_who_dials_a_public_certificate_trusts_public_roots_besides_the_mesh_ca(public: Site) -> None:
    toml = public.rendered("mac", "node.toml")
    assert "public_roots = true\n" in toml
    assert 'ca = "/etc/trishula/tls/ca.crt"\n' in toml


def test_where_all_are_of_the_mesh_ca_nobody_else_is_trusted(site: Site) -> None:
    for host in site.hosts:
        assert "public_roots" not in site.rendered(host, "node.toml")


def test_certbot_is_told_all_but_the_names(public: Site) -> None:
    told = configparser.ConfigParser()
    told.read_string("[certbot]\n" + public.rendered("agni", "certbot.ini"))
    certbot = dict(told["certbot"])
    assert certbot["authenticator"] == "standalone"
    assert certbot["preferred-challenges"] == "http"
    assert certbot["server"] == OURS
    assert certbot["email"] == "operator@mesh.internal"
    live = "/etc/trishula/letsencrypt/live/trishula"
    assert certbot["deploy-hook"] == f"/etc/trishula/tls/install-pair {live}/fullchain.pem {live}/privkey.pem"
    assert "domains" not in certbot  # `renew` takes none


def test_a_renewal_never_sleeps_and_comes_twice_a_day(public: Site) -> None:
    service = public.rendered("agni", "trishula-renew.service")
    assert "certbot renew --config /etc/trishula/letsencrypt/certbot.ini --no-random-sleep-on-renew\n" in service
    assert "OnCalendar=*-*-* 00,12:00:00\n" in public.rendered("agni", "trishula-renew.timer")


def test_a_new_certificate_reloads_the_node_and_a_new_ca_restarts_it(site: Site) -> None:
    for host in site.hosts:
        assert "\nExecReload=/bin/kill -HUP $MAINPID\n" in site.rendered(host, "trishula-node.service")
        reload = site.argument(host, "trishula_tls_reload")
        assert reload.endswith("systemctl try-reload-or-restart trishula-node.service")
        # At the first install there is no such unit yet, and nothing to be reloaded.
        assert subprocess.run(["/bin/sh", "-c", reload], env={"PATH": "/nowhere"}, check=False).returncode == 0


# ── When it is renewed ──────────────────────────────────────────────────────────────────────────────────────────────


def test_readme_roles_and_node_say_the_same_days() -> None:
    defaults = yaml.safe_load((ROOT / "roles/trishula_tls/defaults/main.yml").read_text())
    ours, theirs = defaults["trishula_tls_renew_below_days"], defaults["trishula_tls_letsencrypt_renew_below_days"]
    readme = " ".join((ROOT / "README.md").read_text().split())
    assert f"renews such a certificate when it has less than {ours} days left" in readme
    renewed = (
        f"a certificate of the mesh CA with less than {ours} days left, one of Let's Encrypt with less than {theirs} "
    )
    assert f"less than {WARN_DAYS} days left. Run `site.yml`: it renews {renewed}" in readme
    assert f"From {WARN_DAYS} days before its end" in readme
    assert f"ends in less than {WARN_DAYS} days" in " ".join((ROOT / "docs/configuration.md").read_text().split())
    assert EXPIRES_SOON_S == WARN_DAYS * 24 * 3600
