"""What tests of the exactly-once effect share: a ledger in both databases, and a broker of either kind."""

import logging

import pytest
import pytest_asyncio
from sqlalchemy import text

from broker import StreamOptions
from broker.exactly_once import Inbox

STREAM = StreamOptions("BATTLES", ["battle.>"], duplicate_window=0.1, storage="memory")
"""With a window so short that whatever comes again gets through to the inbox."""


@pytest.fixture(params=["sqlite", "postgresql"])
def kind(request):
    return request.param


@pytest.fixture
def url(kind, tmp_path, request):
    """An empty database."""
    if kind == "sqlite":
        return f"sqlite+aiosqlite:///{tmp_path / 'ledger.db'}"
    return request.getfixturevalue("schema")


class Ledger:
    """Payments, as a handler writes them and a test reads them."""

    def __init__(self, inbox):
        self.engine = inbox.engine

    async def create(self):
        async with self.engine.begin() as connection:
            await connection.execute(text("CREATE TABLE paid (player TEXT NOT NULL, amount INTEGER NOT NULL)"))

    @staticmethod
    async def pay(tx, player, amount=1):
        await tx.execute(text("INSERT INTO paid VALUES (:player, :amount)"), {"player": player, "amount": amount})

    async def paid(self):
        async with self.engine.connect() as connection:
            rows = await connection.execute(text("SELECT player, sum(amount) FROM paid GROUP BY player"))
            return {player: int(amount) for player, amount in rows}


@pytest_asyncio.fixture
async def inbox(url):
    async with Inbox(url) as opened:
        await opened.create()
        yield opened


@pytest_asyncio.fixture
async def ledger(inbox):
    made = Ledger(inbox)
    await made.create()
    return made


@pytest.fixture(params=["memory", "nats"])
def sb(request):
    """A broker with the stream of battles; the real server is marked where the parameter says so."""
    name = "memory_stream_broker" if request.param == "memory" else "stream_broker"
    return request.getfixturevalue(name)


@pytest_asyncio.fixture
async def battles(sb):
    await sb.declare(STREAM)
    return sb


@pytest.fixture(autouse=True)
def quiet():
    """Failures are what the test makes; their log lines say nothing new."""
    logging.getLogger("broker").setLevel(logging.CRITICAL)
    yield
    logging.getLogger("broker").setLevel(logging.NOTSET)
