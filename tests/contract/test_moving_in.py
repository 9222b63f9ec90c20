"""An old file sync moves in: found, ended, and its folder taken over, once."""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import time
from pathlib import Path
from types import ModuleType

import pytest
from tests.contract.conftest import ROOT

SAMPLES = ROOT / "tests" / "samples"
ME = pwd.getpwuid(os.getuid()).pw_name


def library(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "roles/trishula_adopt/library" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


old_sync = library("trishula_old_sync")
old_folder = library("trishula_old_folder")


# ── The old sync ────────────────────────────────────────────────────────────────────────────────────────────────────


class Host:
    """A file system with what an old host has."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.keep = root / "kept"

    def write(self, path: str, text: str, mode: int = 0o644) -> Path:
        file = self.root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(mode)
        return file

    def look(self, *, end: bool = False) -> list[dict[str, str]]:
        looking = old_sync.OldSync(self.root, [ME], self.keep)
        looking.run(change=end)
        return looking.found

    @property
    def home(self) -> str:
        return pwd.getpwnam(ME).pw_dir


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


PUSH = "rsync -az --update /home/openclaw/trishula/outbox/ root@203.0.113.9:/home/openclaw/trishula/inbox/"


def test_a_line_of_a_crontab_is_found_and_commented_out(host: Host) -> None:
    crontab = host.write(f"/var/spool/cron/crontabs/{ME}", f"MAILTO=me\n* * * * * {PUSH}\n0 3 * * * true\n", 0o600)
    assert host.look() == [{"where": f"the crontab of {ME}", "what": f"* * * * * {PUSH}"}]
    assert host.look(end=True)
    assert crontab.read_text() == f"MAILTO=me\n# ended by TRISHULA's adopt: * * * * * {PUSH}\n0 3 * * * true\n"
    assert crontab.stat().st_mode & 0o777 == 0o600
    [kept] = host.keep.iterdir()
    assert PUSH in kept.read_text()
    assert host.look(end=True) == []
    assert list(host.keep.iterdir()) == [kept]


def test_the_crontab_of_a_login_that_is_no_agents_is_looked_into(host: Host) -> None:
    crontab = host.write("/var/spool/cron/crontabs/nobody", f"* * * * * {PUSH}\n", 0o600)
    [found] = host.look(end=True)
    assert found["where"] == "the crontab of nobody"
    assert crontab.read_text().startswith("#")


@pytest.mark.parametrize("path", ["/etc/crontab", "/etc/cron.d/trishula"])
def test_the_hosts_own_crontabs_are_looked_into(host: Host, path: str) -> None:
    host.write(path, f"*/1 * * * * openclaw {PUSH}\n")
    [found] = host.look(end=True)
    assert found["where"] == path
    assert host.look() == []


@pytest.mark.parametrize("word", ["{home}/bin/sync.sh", "~/bin/sync.sh", "$HOME/bin/sync.sh"])
def test_a_script_that_cron_runs_is_read(host: Host, word: str) -> None:
    host.write(f"{host.home}/bin/sync.sh", f"#!/bin/sh\n{PUSH}\n", 0o755)
    host.write(
        f"/var/spool/cron/crontabs/{ME}", f"* * * * * flock -n /tmp/lock {word.format(home=host.home)} >/dev/null\n"
    )
    [found] = host.look(end=True)
    assert "sync.sh" in found["what"]
    assert host.look() == []


def test_a_script_in_a_folder_of_cron_runs_no_more(host: Host) -> None:
    script = host.write("/etc/cron.hourly/trishula-sync", f"#!/bin/sh\n{PUSH}\n", 0o755)
    assert host.look(end=True) == [{"where": "/etc/cron.hourly/trishula-sync", "what": "a script that cron runs"}]
    assert script.stat().st_mode & 0o777 == 0o644
    assert host.look() == []


@pytest.mark.parametrize("timer", ["trishula-sync.timer", "every-minute.timer"])
def test_a_timer_is_found_by_what_its_service_does(host: Host, timer: str) -> None:
    units = "/etc/systemd/system"
    host.write(
        f"{units}/trishula-sync.service", "[Service]\nType=oneshot\nExecStart=/usr/bin/rsync -a \\\n  ~/trishula/ x:\n"
    )
    host.write(f"{units}/{timer}", "[Timer]\nOnCalendar=minutely\nUnit=trishula-sync.service\n")
    wants = host.root / "etc/systemd/system/timers.target.wants"
    wants.mkdir()
    (wants / timer).symlink_to(f"{units}/{timer}")
    [found] = host.look(end=True)
    assert found["where"] == f"the unit {timer} and trishula-sync.service"
    assert list(wants.iterdir()) == []
    assert len(list(host.keep.iterdir())) == 2
    assert host.look() == []


def test_a_unit_of_a_login_is_found(host: Host) -> None:
    host.write(f"{host.home}/.config/systemd/user/sync.service", f"[Service]\nExecStart=/bin/sh -c '{PUSH}'\n")
    [found] = host.look()
    assert found["where"] == f"the unit sync.service of {ME}"


def test_nothing_else_is_taken_for_an_old_sync(host: Host) -> None:
    host.write(
        "/etc/crontab",
        f"# * * * * * root {PUSH}\n"
        "0 3 * * * root rsync -a /var/lib/trishula/ backup:trishula-of-mac/\n"
        "0 4 * * * root rsync -a /home/openclaw/notes/ backup:notes/\n"
        "0 5 * * * root ls /home/openclaw/trishula\n",
    )
    host.write(
        "/etc/systemd/system/trishula-sync.service",
        "[Service]\nExecStart=/usr/local/bin/trishula sync --config /etc/trishula/node.toml\n",
    )
    assert host.look(end=True) == []


# ── The old folder ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """With a ~/trishula of the samples: each file in inbox and outbox, one in the archive."""
    home = tmp_path / "home"
    for box in ("inbox", "outbox", "archive"):
        folder = home / "trishula" / box
        folder.mkdir(parents=True)
        for number, sample in enumerate(sorted(SAMPLES.glob("*.json"))):
            if box != "archive" or number == 0:
                shutil.copy(sample, folder)
                os.utime(folder / sample.name, (1_770_000_000 + number, 1_770_000_000 + number))
    (home / "trishula/inbox/.half.json.Xy12Ab").write_text("{")
    (home / "trishula/inbox/done").mkdir()
    (home / "trishula/inbox/done/old.json").write_text("{}")
    (home / "trishula/notes.md").write_text("mine")
    return home


@pytest.fixture
def mailbox(tmp_path: Path) -> Path:
    mailbox = tmp_path / "mailboxes" / "mac"
    for box in ("inbox", "outbox", "archive", "bounced", "receipts"):
        (mailbox / box).mkdir(parents=True)
    return mailbox


def move_in(home: Path, mailbox: Path) -> list[str]:
    said: list[str] = old_folder.put_aside(home, mailbox, change=True)
    if said:
        (home / "trishula").symlink_to(mailbox)
    return said + old_folder.take_over(home, mailbox, change=True)


def tree(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_the_inbox_stays_unread_the_outbox_is_history_and_nothing_is_where_it_would_be_sent(
    home: Path, mailbox: Path
) -> None:
    old = home / "trishula"
    expected = {f"inbox/{path.name}": path for path in (old / "inbox").glob("[!.]*.json")}
    today = time.strftime("%Y%m%d")
    expected |= {f"outbox/sent/{today}-imported/{path.name}": path for path in (old / "outbox").iterdir()}
    expected |= {f"archive/{path.name}": path for path in (old / "archive").iterdir()}
    expected |= {f"archive/{today}-imported/done/old.json": old / "inbox/done/old.json"}
    before = {name: (path.read_bytes(), path.stat().st_mtime_ns) for name, path in expected.items()}

    said = move_in(home, mailbox)
    assert tree(mailbox) == before
    assert list((mailbox / "outbox").glob("*.json")) == []
    samples = len(list(SAMPLES.glob("*.json")))
    assert f"{samples + 1} unread" in said[1]
    assert f"{samples} that were sent before and are not sent again" in said[1]
    # What was put aside is whole.
    aside = home / f"trishula.before-{today}"
    assert (aside / "notes.md").read_text() == "mine"
    assert len(list((aside / "outbox").iterdir())) == samples


def test_the_second_time_nothing_happens_even_if_all_was_read_meanwhile(home: Path, mailbox: Path) -> None:
    move_in(home, mailbox)
    for path in list((mailbox / "inbox").iterdir()):
        path.rename(mailbox / "archive" / f"read-{path.name}")
    before = tree(mailbox)
    assert move_in(home, mailbox) == []
    assert tree(mailbox) == before


def test_a_check_says_what_would_happen_and_does_nothing(home: Path, mailbox: Path) -> None:
    before = tree(home)
    assert len(old_folder.put_aside(home, mailbox, change=False)) == 1
    (home / "trishula").rename(home / "trishula.before-20260210")
    assert len(old_folder.take_over(home, mailbox, change=False)) == 1
    (home / "trishula.before-20260210").rename(home / "trishula")
    assert tree(home) == before
    assert tree(mailbox) == {}


def test_a_run_that_was_broken_off_is_taken_up_where_it_ended(
    home: Path, mailbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied: list[Path] = []
    whole = old_folder._copy

    def copy(path: Path, target: Path, mailbox: Path, *, resumed: bool) -> None:
        if len(copied) == 7:
            raise OSError("the disk is full")
        copied.append(target)
        whole(path, target, mailbox, resumed=resumed)

    monkeypatch.setattr(old_folder, "_copy", copy)
    with pytest.raises(OSError, match="the disk is full"):
        move_in(home, mailbox)
    # An agent reads what has come so far, and removes it.
    for target in copied:
        target.unlink()
    monkeypatch.setattr(old_folder, "_copy", whole)
    move_in(home, mailbox)
    assert [target for target in copied if target.exists()] == []
    assert len(tree(mailbox)) + len(copied) == 2 * len(list(SAMPLES.glob("*.json"))) + 2


def test_a_name_that_is_taken_by_something_else_is_not_written_over(home: Path, mailbox: Path) -> None:
    name = next(SAMPLES.glob("*.json")).name
    (mailbox / "inbox" / name).write_text("another")
    move_in(home, mailbox)
    assert (mailbox / "inbox" / name).read_text() == "another"
    stem, _, suffix = name.rpartition(".")
    assert (mailbox / "inbox" / f"{stem}~imported.{suffix}").read_bytes() == (SAMPLES / name).read_bytes()


def test_links_and_other_oddities_are_not_followed(home: Path, mailbox: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret.json"
    secret.write_text("{}")
    (home / "trishula/inbox/link.json").symlink_to(secret)
    os.mkfifo(home / "trishula/inbox/fifo.json")
    move_in(home, mailbox)
    assert not (mailbox / "inbox/link.json").exists()
    assert not (mailbox / "inbox/fifo.json").exists()


def test_a_link_to_the_mailbox_is_left_alone_and_a_file_is_named(home: Path, mailbox: Path) -> None:
    shutil.rmtree(home / "trishula")
    (home / "trishula").symlink_to(mailbox)
    assert move_in(home, mailbox) == []
    (home / "trishula").unlink()
    (home / "trishula").write_text("")
    with pytest.raises(old_folder.CannotMoveError, match="is no folder"):
        move_in(home, mailbox)
