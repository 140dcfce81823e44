"""The services under the roles that are shipped: a battle from a player's command to the standings, by TLS."""

from __future__ import annotations

import asyncio
import signal

import pytest

from broker import Entry
from services.audit.journal import AuditJournal
from services.audit.tables import METADATA
from services.children import Children
from services.database import opened
from services.demo.evidence import ended_battles, records, rows, told_to_audit
from services.events import (
    ALL_CONSUMERS,
    ALL_STREAMS,
    BATTLE_SETTLE,
    Asset,
    Claim,
    Letter,
    battle_state,
    gateway_input,
    gateway_output,
    player_mail,
)
from tests.deployment import declare as declare_all
from tests.deployment import single

pytestmark = [pytest.mark.nats, pytest.mark.timeout(120)]
LETTERS = 80
ROOM, PLAYER, GATEWAY = "room-1", "room-1-p1", "gateway-1"


@pytest.fixture
async def server(secrets):
    async with single(secrets) as started:
        yield started


@pytest.fixture
def children(server, tmp_path):
    with Children(tmp_path, server.url) as started:
        yield started


@pytest.fixture
async def declared(children, secrets):
    """By the admin's role, before anybody works."""
    admin = children.start("declare", "services.declare", env=secrets.environment("admin", NATS_ENSURE="verify"))
    assert await admin.ended(30) == 0, admin.obituary()
    assert admin.log.read_text() == f"declared: {len(ALL_STREAMS) + 1} streams, {len(ALL_CONSUMERS)} consumers\n"


def count(path, query):
    found = rows(path, query)
    return found[0][0] if found else 0


async def play(player, seen):
    """Send commands by way of the gateway until the room has taken one."""
    number = 0
    while not any(view["state"][f"player.{PLAYER}"]["ack"] for view in seen):
        number += 1
        tick = seen[-1]["tick"] if seen else 0
        command = {"player": PLAYER, "cmd_seq": number, "client_tick": tick, "kind": "move", "dx": 1, "dy": 0}
        await player.publish(gateway_input(GATEWAY, ROOM, PLAYER), command)
        await asyncio.sleep(0.05)


@pytest.mark.usefixtures("declared")
async def test_a_battle_end_to_end_each_service_under_its_own_role(server, children, secrets, tmp_path, eventually):
    record, ledger, standings = tmp_path / "rooms.jsonl", tmp_path / "ledger.db", tmp_path / "standings.db"

    def service(name, role, *options):
        return children.start(name, f"services.{name}", *options, env=secrets.environment(role))

    running = [
        service("settlement", "settlement", "--database", str(ledger)),
        service("leaderboard", "leaderboard", "--standings", str(standings)),
        service("gateway", "gateway", "--name", GATEWAY),
    ]
    rooms = service("game_room", "room", "--rooms", ROOM, "--battle-seconds", "1", "--stats", str(record))
    await children.ready((*running, rooms), 30)

    seen, frames = [], []
    async with secrets.connect(server, "session-1") as player:
        await player.subscribe(gateway_output(GATEWAY, ROOM, PLAYER), lambda msg: seen.append(msg.json()))
        await player.subscribe(battle_state(ROOM), frames.append)
        async with asyncio.timeout(30):
            await play(player, seen)
        assert frames, "the player sees the room's own frames"
        assert player.stats.protocol_errors == 0

    await eventually(lambda: len(ended_battles([record])) >= 2, 30)
    assert await children.drain([rooms], 30) == []
    ended = sorted(ended_battles([record]))
    await eventually(lambda: count(ledger, "SELECT count(*) FROM settlement") == len(ended), 30)
    assert sorted(battle for (battle,) in rows(ledger, "SELECT battle_id FROM settlement")) == ended
    assert rows(ledger, "SELECT sum(amount) FROM entry") == [(0,)]
    await eventually(lambda: count(standings, "SELECT count(*) FROM applied") == 8 * len(ended), 30)
    assert await children.drain(running, 30) == []
    assert count(ledger, "SELECT count(*) FROM gamebroker_outbox WHERE sent_at IS NULL") == 0
    assert records(record)[-1]["commands"]["accepted"] > 0
    async with secrets.connect(server, "admin") as admin:
        assert [letter async for letter in admin.dead_letters.list()] == []
        assert sorted(told.battle for told in await told_to_audit(admin)) == ended
        for name in ("SETTLEMENTS", "LEADERBOARD"):
            [info] = [info async for info in admin.consumers.list(name)]
            assert (info.pending, info.ack_pending) == (0, 0)
        # Who knows the key, but not the room's secret, does not hit its id.
        assert not (await admin.enqueue(BATTLE_SETTLE, b"{}", idempotency_key=ended[0])).duplicate
    for log in tmp_path.glob("*.log"):
        assert "Violation" not in log.read_text(), log.name


async def test_a_role_that_tries_to_make_what_it_needs_is_told_that_it_may_not(children, secrets, tmp_path):
    environment = secrets.environment("settlement", NATS_ENSURE="verify")
    worker = children.start("settler", "services.settlement", "--database", str(tmp_path / "l.db"), env=environment)
    assert await worker.ended(30) == 1
    said = worker.log.read_text()
    assert "PermissionDenied: not permitted to publish on '$JS.API.STREAM.CREATE.SETTLEMENTS'" in said
    assert "Traceback" not in said


async def test_a_worker_that_only_binds_ends_when_nobody_declared_its_consumer(children, secrets, tmp_path):
    environment = secrets.environment("settlement")
    worker = children.start("settler", "services.settlement", "--database", str(tmp_path / "l.db"), env=environment)
    assert await worker.ended(30) == 1
    said = worker.log.read_text()
    assert said.startswith("ConsumerNotFound: ")
    assert "'settle-worker'" in said
    assert "'SETTLEMENTS'" in said
    assert "Traceback" not in said


@pytest.mark.parametrize("how", ["variable", "file"])
async def test_a_wrong_password_is_one_plain_sentence_that_does_not_show_it(children, secrets, tmp_path, how):
    wrong = "p4ssw0rd-of-somebody-else"
    environment, arguments = secrets.environment("room", NATS_PASSWORD=wrong), []
    if how == "file":
        given = tmp_path / "password"
        given.write_text(f"{wrong}\n")
        environment["NATS_PASSWORD"] = secrets.password("room")
        arguments = ["--password-file", str(given)]
    room = children.start("rooms", "services.game_room", *arguments, env=environment)
    assert await room.ended(30) == 1
    said = room.log.read_text()
    assert "Unauthorized" in said
    assert wrong not in said
    assert len(said.splitlines()) == 1


async def test_what_was_declared_otherwise_is_told_or_brought_in_line(server, children, secrets):
    await declare_all(server, secrets)
    environment = secrets.environment("admin", NATS_ENSURE="verify")

    async def declare(name, *options):
        admin = children.start(name, "services.declare", *options, env=environment)
        return await admin.ended(30), admin.log.read_text()

    code, said = await declare("again")
    assert (code, said.split(":")[0]) == (0, "declared")
    code, said = await declare("other", "--ack-wait", "5")
    assert code == 1
    assert "ConfigDrift" in said
    assert "ack_wait" in said
    assert (await declare("update", "--ack-wait", "5", "--ensure", "update"))[0] == 0
    code, said = await declare("bind", "--ensure", "bind")
    assert code == 2
    assert "makes nothing" in said


@pytest.mark.fault
async def test_mail_and_audit_under_their_roles_killed_midway_and_nothing_is_lost_or_twice(
    server, children, secrets, tmp_path, eventually
):
    mailbox, audit = tmp_path / "mail.db", tmp_path / "audit.db"

    def service(name, module, database):
        options = ("--database", str(database), "--ack-wait", "2")
        return children.start(name, f"services.{module}", *options, env=secrets.environment(module))

    admin = children.start(
        "declare", "services.declare", "--ack-wait", "2", env=secrets.environment("admin", NATS_ENSURE="verify")
    )
    assert await admin.ended(30) == 0, admin.obituary()

    first = [service("mail-1", "mail", mailbox), service("audit-1", "audit", audit)]
    second = [service("mail-2", "mail", mailbox), service("audit-2", "audit", audit)]
    await children.ready((*first, *second), 30)
    async with secrets.connect(server, "settlement") as sender:
        await sender.enqueue_many(
            Entry(player_mail(f"p{n % 7}"), prize(f"l{n}"), idempotency_key=f"l{n}") for n in range(LETTERS)
        )
        await sender.enqueue_many(
            Entry(
                player_mail(f"p{n % 7}"),
                Claim(claim_id=f"c{n}-{again}", letter_id=f"l{n}"),
                idempotency_key=f"c{n}-{again}",
            )
            for n in range(LETTERS)
            for again in range(2)
        )
        # What the killed ones had in hand comes again to the others; claims may overtake their letters by it.
        await eventually(lambda: count(audit, "SELECT count(*) FROM audit_record") >= 10, 30)
        for worker in first:
            assert worker.signal(signal.SIGKILL)
        assert count(audit, "SELECT count(*) FROM audit_record") < 3 * LETTERS, "killed too late"
    await eventually(lambda: count(audit, "SELECT count(*) FROM audit_record") == 3 * LETTERS, 60)
    assert rows(mailbox, "SELECT state, count(*) FROM mail_letter GROUP BY state") == [("claimed", LETTERS)]
    assert sorted(rows(mailbox, "SELECT outcome, count(*) FROM mail_claim GROUP BY outcome")) == [
        ("denied", LETTERS),
        ("done", LETTERS),
    ]
    balance = "SELECT sum(amount) FROM mail_posting WHERE account LIKE"
    assert rows(mailbox, f"{balance} 'player:%'") == [(5 * LETTERS,)]
    assert rows(mailbox, f"{balance} 'escrow:mail'") == [(0,)]
    assert await children.drain(second, 30) == []
    async with opened(str(audit), METADATA, create=False) as (inbox, _):
        assert [(head.source, head.seq) for head in await AuditJournal(inbox.engine).verify()] == [
            ("mail", 3 * LETTERS)
        ]
    async with secrets.connect(server, "admin") as admin:
        assert [letter async for letter in admin.dead_letters.list()] == []
    for log in tmp_path.glob("*.log"):
        assert "Violation" not in log.read_text(), log.name
        assert "Traceback" not in log.read_text(), log.name


def prize(letter_id):
    coins = (Asset(currency="coin", amount=5),)
    return Letter(
        letter_id=letter_id, sender="sys:mint:battle", title="!", attachments=coins, sent_at=1, expires_at=2**62
    )
