"""A mailbox, a disk, a store, a group, a certificate, a token, a firewall, a network: each breaks, is told, heals."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from faults.breaking import cut
from topology.nodes import CREDENTIALS, MAILBOXES, SERVICE, TLS, UNITS, eventually

if TYPE_CHECKING:
    from drills.witnesses import Witnesses
    from faults.stream import Stream
    from topology.nodes import Node

STATE = "/var/lib/trishula"
STORE = f"{STATE}/store"


def unread(node: Node) -> set[str]:
    agent = node.agents[0]
    listed = node.run("trishula", "inbox", "--json", user=agent.user)
    return {message["id"] for message in json.loads(listed.stdout)["messages"]}


# ── Mailboxes ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_inbox_that_is_gone_at_the_start_is_made_and_filled_again_and_nothing_in_it_was_read(
    mesh: dict[str, Node], witnesses: Witnesses
) -> None:
    mac, agni = mesh["mac"], mesh["agni"]
    identity = mac.send("agni", "--wait", "delivered")
    eventually(lambda: agni.in_inbox(identity), within=10)
    inbox = f"{agni.agents[0].mailbox}/inbox"
    rights = agni.rights(inbox)
    agni.host.check_output(f"systemctl stop {UNITS} && rm -rf {inbox} && systemctl start {UNITS}")
    eventually(lambda: agni.in_inbox(identity), within=30)
    assert agni.rights(inbox) == rights
    assert identity in unread(agni)
    assert "read" not in mac.run("trishula", "show", identity, user=mac.agents[0].user).stdout
    assert agni.run("cat", f"{inbox}/{identity}.json", user=agni.agents[0].user).rc == 0
    assert witnesses.alarms(agni) == []


def test_an_inbox_that_can_not_be_entered_is_said_with_its_cure(mesh: dict[str, Node], witnesses: Witnesses) -> None:
    mac, agni = mesh["mac"], mesh["agni"]
    inbox = f"{agni.agents[0].mailbox}/inbox"
    agni.host.check_output(f"chown root:root {inbox} && chmod 0700 {inbox}")
    try:
        found = witnesses.finding(agni, "mailbox", "agni")
        assert "site.yml" in found["fix"]
        witnesses.all_say(agni, inbox, ready=False)
        identity = mac.send("agni", "--wait", "delivered")
    finally:
        agni.host.check_output(f"chown trishula:{agni.agents[0].group} {inbox} && chmod 2770 {inbox}")
    eventually(lambda: agni.in_inbox(identity), within=30)


def test_a_mailbox_that_is_gone_is_said_and_the_site_brings_it_back(
    mesh: dict[str, Node], witnesses: Witnesses
) -> None:
    rushabdev = mesh["rushabdev"]
    identity = mesh["mac"].send("rushabdev", "--wait", "delivered")
    mailbox = f"{MAILBOXES}/rushabdev"
    rushabdev.host.check_output(f"rm -rf {mailbox}")
    witnesses.finding(rushabdev, "mailbox", "rushabdev")
    witnesses.all_say(rushabdev, mailbox, ready=False)
    witnesses.operator.succeed("site.yml")
    eventually(lambda: rushabdev.in_inbox(identity), within=30)
    assert identity in unread(rushabdev)


# ── The disk and the store ──────────────────────────────────────────────────────────────────────────────────────────


def test_a_disk_that_is_full_is_said_until_mail_can_be_written_again(
    mesh: dict[str, Node], witnesses: Witnesses
) -> None:
    mac, agni = mesh["mac"], mesh["agni"]
    agni.host.check_output(
        f"systemctl stop {UNITS} && cp -a {STORE} /var/tmp/store-of-a-drill"
        f" && mount -t tmpfs -o size=64M,mode=0700,uid=$(id -u trishula),gid=$(id -g trishula) drill {STORE}"
        f" && cp -a /var/tmp/store-of-a-drill/. {STORE}/ && systemctl start {UNITS}"
    )
    try:
        eventually(lambda: agni.status().get("ready"), within=30)
        agni.host.check_output(f"cat /dev/zero > {STORE}/ballast || true")
        found = witnesses.finding(agni, "disk")
        assert "make room" in found["fix"]
        witnesses.all_say(agni, STORE, "make room", ready=False)
        identity = mac.send("agni")
        agni.host.check_output(f"rm {STORE}/ballast")
        eventually(lambda: agni.in_inbox(identity), within=60)
        eventually(lambda: agni.status().get("ready"), within=30)
    finally:
        agni.host.check_output(
            f"systemctl stop {UNITS}; rm -f {STORE}/ballast; rm -rf /var/tmp/store-of-a-drill/*"
            f" && cp -a {STORE}/. /var/tmp/store-of-a-drill/ && umount {STORE}"
            f" && rm -rf {STORE}/* && cp -a /var/tmp/store-of-a-drill/. {STORE}/"
            f" && rm -rf /var/tmp/store-of-a-drill && systemctl start {UNITS}"
        )


def test_a_store_that_is_removed_under_its_node_is_said_and_put_back_by_a_restart(
    mesh: dict[str, Node], witnesses: Witnesses
) -> None:
    mac, agni = mesh["mac"], mesh["agni"]
    before = mac.send("agni", "--wait", "delivered")
    eventually(lambda: agni.in_inbox(before), within=10)
    agni.host.check_output(f"rm -f {STORE}/trishula.db {STORE}/trishula.db-wal {STORE}/trishula.db-shm")
    found = witnesses.finding(agni, "store")
    assert "restart" in found["fix"]
    witnesses.all_say(agni, "the store is gone", "restart", ready=False)
    assert "Traceback" not in witnesses.journal(agni)
    identity = mac.send("agni")
    agni.host.check_output(f"systemctl restart {SERVICE}")
    eventually(lambda: agni.in_inbox(identity), within=60)
    assert before in unread(agni)


# ── The host around it ──────────────────────────────────────────────────────────────────────────────────────────────


def test_the_group_of_one_agent_that_is_gone_keeps_that_agent_out_and_nobody_else(
    mesh: dict[str, Node], witnesses: Witnesses
) -> None:
    mac = mesh["mac"]
    _, person = mac.agents
    mac.host.check_output(f"groupmod --new-name {person.group}-gone {person.group} && systemctl restart {SERVICE}")
    try:
        eventually(mac.status, within=30)
        found = witnesses.finding(mac, "socket", person.name)
        assert person.group in found["text"]
        assert mac.run("trishula", "send", "agni", "still here", "--wait", "delivered", user=mac.agents[0].user).rc == 0
        witnesses.all_say(mac, person.group, ready=False)
    finally:
        mac.host.check_output(f"groupmod --new-name {person.group} {person.group}-gone && systemctl restart {SERVICE}")
    eventually(lambda: mac.run("trishula", "inbox", user=person.user).rc == 0, within=30)


def test_a_certificate_of_another_ca_is_refused_and_the_old_one_serves_on(
    mesh: dict[str, Node], witnesses: Witnesses
) -> None:
    agni = mesh["agni"]
    pid = agni.pid
    agni.host.check_output(
        f"mkdir /root/drill && cp -a {TLS}/node.crt {TLS}/node.key /root/drill/"
        f" && openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN=agni"
        f" -addext subjectAltName=DNS:agni -keyout /root/drill/k -out /root/drill/c 2>/dev/null"
        f" && cat /root/drill/k > {TLS}/node.key && cat /root/drill/c > {TLS}/node.crt && systemctl reload {SERVICE}"
    )
    try:
        found = witnesses.finding(agni, "tls")
        assert "site.yml" in found["fix"]
        witnesses.all_say(agni, "refused", ready=True)
        assert agni.linked() == set(mesh) - {"agni"}
    finally:
        agni.host.check_output(
            f"cat /root/drill/node.key > {TLS}/node.key && cat /root/drill/node.crt > {TLS}/node.crt"
            f" && rm -r /root/drill && systemctl reload {SERVICE}"
        )
    assert agni.pid == pid


def test_a_token_that_is_good_nowhere_is_said_on_both_sides(mesh: dict[str, Node], witnesses: Witnesses) -> None:
    mac, agni = mesh["mac"], mesh["agni"]
    dial = json.loads(mac.read(f"{CREDENTIALS}/dial.json"))
    wrong = json.dumps(dial | {"agni": "x" * len(dial["agni"])})
    mac.host.check_output(
        f"cp -a {CREDENTIALS}/dial.json /root/dial.json && printf %s %s > {CREDENTIALS}/dial.json"
        f" && systemctl restart {SERVICE}", "%s", wrong,
    )  # fmt: skip
    try:
        found = witnesses.finding(mac, "link", "agni")
        assert "401" in found["text"] or "token" in found["text"]
        assert "next in" in found["text"]
        witnesses.all_say(mac, "not linked", "token", ready=True, journal="can't link to agni")
        turned_away = witnesses.finding(agni, "link", "mac")
        assert "turned away" in turned_away["text"]
        identity = mac.send("agni", "--wait", "delivered")
    finally:
        mac.host.check_output(
            f"cat /root/dial.json > {CREDENTIALS}/dial.json && rm /root/dial.json && systemctl restart {SERVICE}"
        )
    eventually(lambda: agni.in_inbox(identity), within=30)


def test_a_firewall_that_denies_the_port_is_said_by_who_dials(mesh: dict[str, Node], witnesses: Witnesses) -> None:
    mac, agni = mesh["mac"], mesh["agni"]
    agni.host.check_output(f"ufw deny {agni.port}/tcp")  # in the place of the rule that allows it
    try:
        agni.host.check_output(f"systemctl restart {SERVICE}")  # what was open would stay open
        found = witnesses.finding(mac, "link", "agni")
        assert "next in" in found["text"]
        witnesses.all_say(mac, "not linked", ready=True, journal="can't link to agni")
        assert f"ufw lets nobody in at {agni.port}/tcp" in agni.run("trishula", "doctor").stdout
        identity = mac.send("agni", "--wait", "delivered", "--timeout", "60")
    finally:
        agni.host.check_output(f"ufw allow {agni.port}/tcp comment 'trishula: mesh'")
    eventually(lambda: agni.in_inbox(identity), within=30)


def test_links_that_are_cut_are_said_and_the_clock_is_not_blamed(mesh: dict[str, Node], witnesses: Witnesses) -> None:
    mac, agni, rushabdev = mesh["mac"], mesh["agni"], mesh["rushabdev"]
    with cut(mac, agni), cut(mac, rushabdev):
        eventually(lambda: "no answer" in witnesses.finding(mac, "link", "agni")["text"], within=30)
        witnesses.all_say(mac, "not linked", "no answer", ready=True)
        identity = mac.send("agni")
    eventually(lambda: agni.in_inbox(identity), within=60)


# ── What an operator does on purpose ────────────────────────────────────────────────────────────────────────────────


def test_a_rolling_restart_a_change_of_the_port_and_files_alone_and_back_alarm_nobody_and_lose_nothing(
    mesh: dict[str, Node], witnesses: Witnesses, stream: Stream
) -> None:
    for node in mesh.values():
        node.host.check_output(f"systemctl restart {SERVICE}")
        eventually(lambda node=node: node.linked() == set(mesh) - {node.name}, within=30)

    port = one_restart_each(mesh, witnesses, "-e", "trishula_port=8766")
    assert "6 directions by link" in port
    files = one_restart_each(mesh, witnesses, "-e", "trishula_transport=files")
    assert "verified" in files
    status = witnesses.operator.run("playbooks/status.yml", "-e", "trishula_transport=files")
    assert status.code == 0, status.said
    back = one_restart_each(mesh, witnesses)
    assert "6 directions by link" in back

    stream.finish(within=60)
    lost, too_many = stream.lost_and_doubled(within=15)
    assert stream.routes()["rsync"] > 0
    assert not lost
    assert not too_many
    for node in mesh.values():
        assert witnesses.alarms(node) == [], node.name


def one_restart_each(mesh: dict[str, Node], witnesses: Witnesses, *options: str) -> str:
    """A green run of the site that restarts each node once. Returns what it said."""
    before = {node.name: starts(node) for node in mesh.values()}
    run = witnesses.operator.succeed("site.yml", *options)
    assert {node.name: starts(node) - before[node.name] for node in mesh.values()} == dict.fromkeys(mesh, 1)
    return run.text


def starts(node: Node) -> int:
    """How often systemd has started the node."""
    said = node.host.check_output(f"journalctl --quiet --output cat --unit {SERVICE} --grep '^Started '")
    return len(said.splitlines())
