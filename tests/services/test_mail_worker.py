from __future__ import annotations

import re
import time

import msgspec
import pytest

from services.database import opened
from services.events import AUDIT_RECORDS, MAIL, MAIL_CONSUMER, Claim, MailRecord, player_mail
from services.mail.mailbox import Mailbox
from services.mail.tables import METADATA
from services.mail.worker import MailWorker


@pytest.fixture
def path(tmp_path):
    return tmp_path / "mail.db"


@pytest.fixture
async def worker(sb, path):
    async with opened(str(path), METADATA) as (inbox, outbox):
        running = MailWorker(sb, Mailbox(outbox), inbox, outbox, sweep_every=0.05)
        await running.start()
        yield running
        await running.drain()
        await running.abort()


@pytest.fixture
def soon(make_letter):
    """A letter that can be claimed for an hour."""
    return lambda *args, **changes: make_letter(*args, **({"expires_at": time.time_ns() + 3_600 * 10**9} | changes))


async def told(sb) -> list[MailRecord]:
    async with sb.read(AUDIT_RECORDS, stream="AUDIT", start="first", until="end") as messages:
        return [msgspec.json.decode(message.data, type=MailRecord) async for message in messages]


async def settled(sb) -> bool:
    info = await sb.consumers.info(MAIL.name, MAIL_CONSUMER.durable)
    return not info.pending and not info.ack_pending


@pytest.mark.usefixtures("worker")
async def test_a_letter_and_its_claim_are_told_to_the_audit_once_each(sb, path, soon, sql, eventually):
    for _ in range(2):
        await sb.enqueue(player_mail("ann"), soon(expires_at=2**62), idempotency_key="l1")
        await sb.enqueue(player_mail("ann"), soon(expires_at=2**62), idempotency_key="another key of l1")
    for n in range(3):
        claim = Claim(claim_id=f"c{n}", letter_id="l1", actor="gateway-1")
        await sb.enqueue(player_mail("ann"), claim, idempotency_key=f"c{n}")
    await eventually(lambda: sql(path, "SELECT count(*) FROM gamebroker_outbox WHERE sent_at IS NOT NULL") == [(4,)])
    records = await told(sb)
    assert sorted((each.action, each.outcome, each.actor) for each in records) == [
        ("claim", "denied", "gateway-1"),
        ("claim", "denied", "gateway-1"),
        ("claim", "done", "gateway-1"),
        ("store", "done", "sys:mint:season"),
    ]
    [done] = [each for each in records if each.action == "claim" and each.outcome == "done"]
    assert done.about == ("player:ann", "letter:l1")
    assert [(each.account, each.currency, each.amount) for each in done.postings] == [
        ("escrow:mail", "coin", -10),
        ("player:ann", "coin", 10),
    ]
    assert await settled(sb)


@pytest.mark.usefixtures("worker")
async def test_a_claim_that_comes_before_its_letter_waits_for_it(sb, path, soon, sql, eventually):
    await sb.enqueue(player_mail("ann"), Claim(claim_id="c1", letter_id="l1"), idempotency_key="c1")
    await eventually(lambda: sb.stats.naked >= 1)
    await sb.enqueue(player_mail("ann"), soon(), idempotency_key="l1")
    await eventually(lambda: sql(path, "SELECT outcome FROM mail_claim") == [("done",)])


@pytest.mark.usefixtures("worker")
async def test_what_nobody_claims_goes_back_by_itself(sb, path, make_letter, sql, eventually):
    await sb.enqueue(player_mail("ann"), make_letter(), idempotency_key="l1")
    await eventually(lambda: sql(path, "SELECT state FROM mail_letter") == [("expired",)])
    await eventually(lambda: sql(path, "SELECT count(*) FROM gamebroker_outbox WHERE sent_at IS NULL") == [(0,)])
    assert [each.action for each in await told(sb)] == ["store", "expire"]


@pytest.mark.usefixtures("worker")
async def test_what_can_never_be_applied_is_a_dead_letter_and_a_line_and_holds_up_nobody(
    sb, path, soon, sql, eventually, caplog
):
    bodies = {
        "garbage": b"garbage",
        "no kind": b'{"letter_id":"l1"}',
        "negative": msgspec.json.encode(soon("l2")).replace(b'"amount":10', b'"amount":-10'),
        "from escrow": soon("l3", sender="escrow:mail"),
    }
    for key, body in bodies.items():
        await sb.enqueue(player_mail("ann"), body, idempotency_key=key)
    await sb.enqueue("mail.a!", soon(), idempotency_key="nobody")
    await sb.enqueue(player_mail("ann"), soon(expires_at=2**62), idempotency_key="l1")
    await eventually(lambda: sql(path, "SELECT letter_id FROM mail_letter") == [("l1",)])
    await sb.enqueue(player_mail("ann"), soon(expires_at=2**62, title="Another"), idempotency_key="other key")
    await eventually(lambda: sb.stats.dead_lettered == 6)
    keys = {letter.idempotency_key async for letter in sb.dead_letters.list()}
    assert keys == {*bodies, "nobody", "other key"}
    assert not [each for each in caplog.records if each.exc_info]
    warned = [each.getMessage() for each in caplog.records if each.levelname in {"WARNING", "ERROR"}]
    assert len(warned) == 6
    told = re.compile(r"'mail\.(ann|a!)' \(MAIL sequence \d+\) gave up in mail-worker, .{20,}: dead letter \d")
    assert all(told.fullmatch(each) for each in warned), warned
    assert sql(path, "SELECT player, letter_id FROM mail_letter") == [("ann", "l1")]
    assert await settled(sb)
