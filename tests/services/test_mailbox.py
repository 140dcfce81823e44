from __future__ import annotations

import asyncio
import random

import pytest
from sqlalchemy import func, select

from services.database import opened
from services.events import Asset, Claim
from services.mail.escrow import ESCROW, State
from services.mail.mailbox import Mailbox, MailConflict, UnknownLetter
from services.mail.tables import CLAIM, METADATA, POSTING

PRIZE = (Asset(currency="coin", amount=10), Asset(currency="gem", amount=2))


class Post:
    """A mailbox and the transactions around it."""

    def __init__(self, outbox):
        self.now = 500
        self.outbox = outbox
        self.box = Mailbox(outbox, lambda: self.now)

    async def store(self, player, letter):
        async with self.outbox.transaction() as tx:
            await self.box.store(tx, player, letter)

    async def claim(self, player, letter_id, claim_id="c1"):
        async with self.outbox.transaction() as tx:
            await self.box.claim(tx, player, Claim(claim_id=claim_id, letter_id=letter_id))

    async def expire(self):
        async with self.outbox.transaction() as tx:
            return await self.box.expire(tx)

    async def rows(self, query):
        async with self.outbox.engine.connect() as connection:
            return [tuple(row) for row in await connection.execute(query)]

    async def states(self, player="ann"):
        async with self.outbox.engine.connect() as connection:
            return {mail.letter.letter_id: mail.state for mail in await self.box.mail(connection, player)}

    async def balances(self):
        """What each account has, by (account, currency); accounts without anything are not in it."""
        row = POSTING.c
        found = await self.rows(
            select(row.account, row.currency, func.sum(row.amount)).group_by(row.account, row.currency)
        )
        return {(account, currency): int(amount) for account, currency, amount in found if amount}

    async def in_escrow(self):
        async with self.outbox.engine.connect() as connection:
            return await self.box.in_escrow(connection)


@pytest.fixture
async def post(database):
    async with opened(database, METADATA) as (_, outbox):
        yield Post(outbox)


async def test_what_is_attached_waits_in_escrow_until_it_is_claimed(post, make_letter):
    await post.store("ann", make_letter(attachments=PRIZE))
    assert await post.states() == {"l1": State.WAITING}
    assert await post.in_escrow() == {"coin": 10, "gem": 2}
    await post.claim("ann", "l1")
    assert await post.states() == {"l1": State.CLAIMED}
    assert await post.balances() == {
        ("player:ann", "coin"): 10,
        ("player:ann", "gem"): 2,
        ("sys:mint:season", "coin"): -10,
        ("sys:mint:season", "gem"): -2,
    }
    assert await post.outbox.waiting() == 2, "both are told to the audit"


async def test_a_letter_that_comes_again_changes_nothing_and_another_one_under_its_id_is_refused(post, make_letter):
    for _ in range(2):
        await post.store("ann", make_letter())
    with pytest.raises(MailConflict, match="another letter l1"):
        await post.store("ann", make_letter(title="Well done, again"))
    await post.store("bob", make_letter())  # ids are a player's own
    assert await post.in_escrow() == {"coin": 20}
    assert await post.outbox.waiting() == 2


async def test_of_twenty_claims_at_once_one_gets_what_is_attached(post, make_letter):
    await post.store("ann", make_letter())
    await asyncio.gather(*(post.claim("ann", "l1", f"c{n}") for n in range(20)))
    assert await post.balances() == {("player:ann", "coin"): 10, ("sys:mint:season", "coin"): -10}
    outcomes = await post.rows(
        select(CLAIM.c.outcome, CLAIM.c.reason, func.count()).group_by(CLAIM.c.outcome, CLAIM.c.reason)
    )
    assert sorted(outcomes) == [("denied", "it was claimed already", 19), ("done", "", 1)]


async def test_a_claim_that_comes_again_is_the_same_claim(post, make_letter):
    await post.store("ann", make_letter())
    await post.store("ann", make_letter("l2"))
    for _ in range(3):
        await post.claim("ann", "l1")
    with pytest.raises(MailConflict, match="was made for letter l1"):
        await post.claim("ann", "l2", "c1")
    assert await post.rows(select(CLAIM.c.claim_id, CLAIM.c.outcome)) == [("c1", "done")]


async def test_a_claim_that_was_denied_stays_denied_though_another_workers_clock_is_behind(post, make_letter):
    await post.store("ann", make_letter())
    post.now = 1_000
    await post.claim("ann", "l1")
    post.now = 999
    await post.claim("ann", "l1")
    assert await post.states() == {"l1": State.WAITING}
    assert await post.in_escrow() == {"coin": 10}


async def test_a_claim_races_the_expiry_and_one_of_them_wins(post, make_letter):
    letters = [f"l{n}" for n in range(20)]
    for letter_id in letters:
        await post.store("ann", make_letter(letter_id))
    dice = random.Random(7)
    work = [post.claim("ann", letter_id, f"c-{letter_id}") for letter_id in letters] + [post.expire() for _ in range(4)]
    dice.shuffle(work)

    def at_any_time():
        return dice.choice((999, 1_000))

    post.box._clock = at_any_time
    await asyncio.gather(*work)
    post.box._clock = lambda: 1_000
    await post.expire()
    states = await post.states()
    claimed = sum(state is State.CLAIMED for state in states.values())
    assert 0 < claimed < 20
    assert set(states.values()) == {State.CLAIMED, State.EXPIRED}
    assert await post.in_escrow() == {}
    assert (await post.balances()).get(("player:ann", "coin")) == 10 * claimed


async def test_what_nobody_claims_in_time_goes_back(post, make_letter):
    for n in range(3):
        await post.store("ann", make_letter(f"l{n}"))
    await post.store("ann", make_letter("later", expires_at=2_000))
    await post.store("ann", make_letter("plain", attachments=()))
    assert await post.expire() == 0
    post.now = 1_000
    await post.claim("ann", "l0")  # too late, though nobody has swept it
    while await post.expire():
        pass
    assert await post.states() == {
        **{f"l{n}": State.EXPIRED for n in range(3)},
        "later": State.WAITING,
        "plain": State.PLAIN,
    }
    assert await post.balances() == {(ESCROW, "coin"): 10, ("sys:mint:season", "coin"): -10}
    await post.claim("ann", "plain", "c2")
    await post.claim("ann", "l1", "c3")
    found = await post.rows(select(CLAIM.c.claim_id, CLAIM.c.outcome, CLAIM.c.reason).order_by(CLAIM.c.claim_id))
    assert found == [
        ("c1", "denied", "it has expired"),
        ("c2", "denied", "nothing is attached"),
        ("c3", "denied", "it has expired"),
    ]


async def test_nobody_claims_a_letter_that_is_not_theirs(post, make_letter):
    await post.store("ann", make_letter())
    with pytest.raises(UnknownLetter, match="eve has no letter l1"):
        await post.claim("eve", "l1")
    assert await post.in_escrow() == {"coin": 10}
