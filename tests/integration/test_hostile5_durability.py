"""HOSTILE 5: declared durability (each test states a promise that did not hold when it was written)."""

import pytest

from broker import BrokerError, ConfigDrift, InvalidOption, StreamBroker, StreamOptions
from broker.backends.nats.examining import Facts, look_at_monitoring
from broker.server import NatsServer

MONEY = StreamOptions("MONEY", ["money.>"], durability="fsync")

pytestmark = pytest.mark.nats


async def test_another_servers_page_proves_nothing():
    """A page of staging, an old address, a copied variable: what it says is about a server we do not talk to."""
    async with (
        NatsServer(monitoring=True) as always,
        NatsServer(sync_interval=None) as lazy,
        StreamBroker.connect(lazy.url) as sb,
    ):
        with pytest.raises(ConfigDrift):
            await sb.declare(MONEY, monitoring=always.monitoring_url)


@pytest.mark.parametrize("url", ["http://ann:s3cret/word@127.0.0.1:1", "http://ann:s3cretword/@127.0.0.1:1"])
async def test_a_password_in_a_page_is_not_shown(nats_server, url):
    async with StreamBroker.connect(nats_server.url) as sb:
        with pytest.raises(BrokerError) as caught:
            await sb.declare(MONEY, monitoring=url)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("url", ["http://ann:s3cret/word@127.0.0.1:1", "http://ann:s3cretword/@127.0.0.1:1", "http://[::1"])
async def test_nor_does_the_doctor_show_it_or_fall_over_it(url):
    facts = Facts()
    await look_at_monitoring(facts, url)
    assert facts.unknown["monitoring"]
    assert "s3cret" not in facts.unknown["monitoring"]


async def test_what_is_no_page_is_refused_by_name(memory_stream_broker):
    with pytest.raises(InvalidOption):
        await memory_stream_broker.declare(MONEY, monitoring=123)
