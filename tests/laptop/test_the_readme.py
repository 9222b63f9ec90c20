"""README's "Put it on your hosts", word by word, by a person on a laptop that is `mac` and the controller in one.

The tests are one story and run in this order. After each step all that the three hosts have is compared with what they
had before it: nothing may change that is not declared here.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

import pytest

from laptop.conftest import OWNER
from topology.nodes import MAILBOXES, UNITS
from topology.portrait import before, portrait, undeclared

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from laptop.terminal import Answer, Terminal
    from topology.nodes import Node

HOME = f"/home/{OWNER}"
ELSEWHERE = f"{HOME}/elsewhere"

OURS = r"""
  (?: (?:file|folder|content) \s (?:
      /etc/trishula | /opt/trishula | /var/lib/trishula | /run/trishula | /usr/local/bin/trishula
    | /run/(?:credentials|systemd)/.*trishula-
    | /etc/systemd/system/(?:[a-z-]+\.target\.wants/)?trishula-
    | /etc/systemd/journald\.conf\.d | /etc/tmpfiles\.d/trishula
    | /etc/ssh/authorized_keys\.d | /etc/ssh/sshd_config\.d/00-trishula
    | /home/(?:openclaw|dhyana)/trishula\s  # the link to the mailbox
    )
    | (?:passwd|group|shadow|gshadow) \s (?:trishula|openclaw|dhyana)  # our accounts, and who is in the agents' groups
    | unit \s trishula-
    | ufw\b | listens \s tcp \s (?:127\.0\.0\.1|\*):8765
  )
"""
"""What installing puts on a host."""
PACKAGES = r"""
  (?: (?:package|manual) \s
      | (?:file|folder|content) \s (?:/usr/(?!local/)|/etc/(?:alternatives|init\.d|rc\d\.d|systemd/system)/)
      | unit \s systemd-timesyncd | unit \s (?:dbus-org|ntpsec|chrony) )
"""
"""What a package brings that was missing."""
PROJECT = rf"(?:file|folder|content) \s {HOME}/trishula-project(?:/|\s)"
CONTROLLER = rf"""
  (?:file|folder|content) \s {HOME}/
  (?: trishula-project/(?:\.venv|\.uv|dist|\.ansible|inventory/mine) | \.cache(?:\s|/uv|/pip) | \.ssh/known_hosts )
  | file \s /tmp/uv-[0-9a-f]+\.lock
"""
"""What the project makes on the controller: in its own folder, and the caches of the tools that fetch packages."""
INSTALLED = f"(?: {OURS} | {PACKAGES} | {CONTROLLER} )"
MAIL = rf"(?:file|content) \s {MAILBOXES}/ | content \s /var/lib/trishula/store/"
RUNNING = r"(?:file|folder|content) \s /var/lib/trishula/(?:store|fallback|JIKOKU) | (?:file|content) \s /run/trishula"
"""What a running node writes by itself."""


class Story:
    """Types what the README says and holds the hosts to what may change meanwhile."""

    def __init__(self, person: Terminal, hosts: dict[str, Node], steps: list[str]) -> None:
        self.person = person
        self.hosts = hosts
        self._steps: Iterator[str] = iter(steps)
        self._then = {name: portrait(node) for name, node in hosts.items()}

    def next(self, beginning: str) -> str:
        """The README's next line, which begins so."""
        line = next(self._steps, "")
        assert line.startswith(beginning), f"README goes on with: {line!r}"
        return line

    def play(self, line: str, *, declared: str) -> Answer:
        """Type it; it succeeds, and changes nothing on any host but what is declared."""
        answer = self.person.succeed(line)
        now = {name: portrait(node) for name, node in self.hosts.items()}
        changed = {
            name: undeclared(self._then[name], now[name], f"(?: {declared} | {RUNNING} )") for name in self.hosts
        }
        self._then = now
        assert "\n".join(f"{name}: {change}" for name, changes in changed.items() for change in changes) == "", line
        return answer


@pytest.fixture(scope="module")
def story(person: Terminal, hosts: dict[str, Node], steps: list[str]) -> Story:
    return Story(person, hosts, steps)


def test_a_clone_and_its_environment_stay_in_one_folder(story: Story) -> None:
    story.play("git clone -q /srv/trishula.git trishula-project && cd trishula-project", declared=PROJECT)
    story.play(story.next("make venv"), declared=CONTROLLER)


def test_addresses_and_names_are_all_that_is_filled_in(story: Story) -> None:
    story.play(story.next("cp "), declared=CONTROLLER)
    edit = story.next("nano ")
    addresses = {"192.0.2.15": story.hosts["agni"].address, "198.51.100.184": story.hosts["rushabdev"].address}
    for then, now in addresses.items():
        files = " ".join(shlex.split(edit)[1:])
        story.person.succeed(f"grep -q {then} {files} && sed -i s/{then}/{now}/ {files}")


def test_a_check_before_the_first_run_says_what_would_be_done_and_does_none_of_it(story: Story) -> None:
    answer = story.play(story.next("ansible-playbook -i inventory/mine site.yml --check"), declared=CONTROLLER)
    assert "failed=0" in answer.said


def test_the_site_puts_the_mesh_on_all_three(story: Story, inventory: Path) -> None:
    story.play(story.next("ansible-playbook -i inventory/mine site.yml -K"), declared=INSTALLED)
    for name, node in story.hosts.items():
        assert node.linked() == set(story.hosts) - {name}
        assert undeclared(before(inventory, name), portrait(node), f"(?: {INSTALLED} | {PROJECT} | {RUNNING} )") == []


def test_a_second_run_changes_nothing(story: Story) -> None:
    answer = story.play("ansible-playbook -i inventory/mine site.yml -K", declared=CONTROLLER)
    assert "failed=0" in answer.said
    assert not [line for line in answer.said.splitlines() if " changed=" in line and " changed=0" not in line]


def test_a_message_goes_each_way(story: Story) -> None:
    story.play(story.next("trishula send agni "), declared=MAIL)
    sent = story.hosts["agni"].run(
        "trishula", "send", OWNER, "And to you.", "--subject", "evening", "--wait", "delivered", user="openclaw"
    )
    assert sent.rc == 0, sent.stderr
    assert "evening" in story.play("trishula inbox", declared=MAIL).said


def test_status_shows_all_three_and_changes_nothing(story: Story) -> None:
    answer = story.play(story.next("ansible-playbook -i inventory/mine playbooks/status.yml"), declared=CONTROLLER)
    assert all(name in answer.said for name in story.hosts)


def test_the_playbooks_run_from_any_folder(story: Story) -> None:
    project = f"{HOME}/trishula-project"
    story.person.succeed(f"mkdir {ELSEWHERE} && cd {ELSEWHERE}")
    elsewhere = f"{CONTROLLER} | folder \\s {ELSEWHERE}"
    for playbook in ("site.yml --check", "playbooks/status.yml"):
        story.play(f"ansible-playbook -i {project}/inventory/mine {project}/{playbook} -K", declared=elsewhere)
    story.person.succeed(f"cd {project}")


def test_a_checkout_that_all_may_write_to_works_too(story: Story) -> None:
    story.person.succeed("chmod 0777 .")
    itself = rf"folder \s {HOME}/trishula-project\s"
    story.play("ansible-playbook -i inventory/mine playbooks/status.yml -K", declared=f"(?: {CONTROLLER} | {itself} )")
    story.person.succeed("chmod 0755 .")


def test_an_upgrade_brings_what_was_pulled(story: Story) -> None:
    project = f"{HOME}/trishula-project"
    story.person.succeed(f"git clone -q /srv/trishula.git {HOME}/newer && cd {HOME}/newer")
    story.person.succeed("sed -i 's/^__version__ = .*/__version__ = \"2.0.9\"/' src/trishula/__init__.py")
    story.person.succeed("git -c user.name=A -c user.email=a@example.org commit -qam 'A newer release'")
    story.person.succeed(f"cd {project} && git pull -q {HOME}/newer HEAD && rm -rf {HOME}/newer")
    story.play("ansible-playbook -i inventory/mine playbooks/upgrade.yml -K", declared=f"(?: {INSTALLED} | {PROJECT} )")
    assert {node.status()["version"] for node in story.hosts.values()} == {"2.0.9"}


def test_secrets_are_rotated(story: Story) -> None:
    credentials = r"(?:file|content) \s /etc/trishula/(?:credentials|agents|secrets)"
    story.play(
        "ansible-playbook -i inventory/mine playbooks/rotate_secrets.yml -K",
        declared=f"(?: {credentials} | {OURS} | {CONTROLLER} )",
    )
    for name, node in story.hosts.items():
        assert node.linked() == set(story.hosts) - {name}


def test_uninstalled_they_have_what_they_had_before_and_their_mail(story: Story, inventory: Path) -> None:
    line = "ansible-playbook -i inventory/mine playbooks/uninstall.yml -K"
    story.play(line, declared=f"(?: {INSTALLED} | {MAIL} )")
    kept = r"(?:file|folder|content) \s /var/lib/trishula(?:/mailboxes|\s)"
    for name, node in story.hosts.items():
        assert node.run("systemctl", "is-active", *UNITS.split()).stdout.split() == ["inactive"] * 2
        assert (
            undeclared(
                before(inventory, name),
                portrait(node),
                f"(?: {kept} | {CONTROLLER} | {PROJECT} | folder \\s {ELSEWHERE} )",
            )
            == []
        )
