"""A declared durability is held against what the server says of itself, before anything is made."""

import logging

import pytest

from broker import ConfigDrift, InvalidOption, StreamBroker, StreamOptions
from broker.server import NatsServer

MONEY = StreamOptions("MONEY", ["money.>"], durability="fsync")


@pytest.fixture
async def pages():
    """A server that syncs every write, and one that leaves it to the system for two minutes."""
    async with NatsServer(monitoring=True) as always, NatsServer(monitoring=True, sync_interval=None) as lazy:
        yield always, lazy


async def refused(sb, **how):
    with pytest.raises(ConfigDrift) as caught:
        await sb.declare(MONEY, **how)
    assert await sb.streams.find("money.paid") is None
    return caught.value


@pytest.mark.nats
async def test_it_is_what_the_monitoring_page_says(pages, monkeypatch, caplog):
    always, lazy = pages
    async with StreamBroker.connect(always.url) as sb:
        told = await refused(sb)
        assert told.differences == {"durability": ("fsync", "unknown")}
        assert "monitoring" in str(told)
        told = await refused(sb, monitoring="http://127.0.0.1:1")
        assert told.differences == {"durability": ("fsync", "unknown")}
        told = await refused(sb, monitoring=[always.monitoring_url, lazy.monitoring_url])
        assert told.differences == {"durability": ("fsync", "os")}
        assert "120 s" in str(told)
        told = await refused(sb, monitoring=lazy.monitoring_url)
        assert told.differences == {"durability": ("fsync", "unknown")}
        monkeypatch.setenv("NATS_MONITORING", always.monitoring_url)
        await sb.declare(MONEY)
        assert (await sb.streams.info("MONEY")).config.durability is None
        await sb.declare(MONEY, monitoring=always.monitoring_url)
        monkeypatch.setenv("NATS_MONITORING", f"{always.monitoring_url},{lazy.monitoring_url}")
        with caplog.at_level(logging.WARNING, "broker"):
            await sb.declare(MONEY, unproven="warn")
        assert "asked 'fsync', server has 'os'" in caplog.text
        with pytest.raises(ConfigDrift, match="asked 'fsync', server has 'os'"):
            await sb.declare(MONEY, ensure="bind")
        await sb.declare(MONEY, ensure="bind", monitoring="")
        await sb.declare(StreamOptions("MAIL", ["mail"], durability="os"))
        for made in (sb.streams.create(MONEY), sb.streams.update(MONEY), sb.streams.ensure(MONEY)):
            with pytest.raises(InvalidOption, match="declare"):
                await made


@pytest.mark.nats
@pytest.mark.parametrize("link", ["wire", "nats-py"])
async def test_another_servers_page_proves_nothing(pages, link):
    """A page of staging, an old address, a copied variable: what it says is about a server we do not talk to."""
    always, lazy = pages
    async with StreamBroker.connect(lazy.url, link=link) as sb:
        told = await refused(sb, monitoring=always.monitoring_url)
        assert told.differences == {"durability": ("fsync", "unknown")}
        assert "not the monitoring page of the server" in str(told)
        assert (await refused(sb, monitoring=lazy.monitoring_url)).differences == {"durability": ("fsync", "os")}
    async with StreamBroker.connect(always.url, link=link) as sb:
        await sb.declare(MONEY, monitoring=always.monitoring_url)


@pytest.mark.nats
@pytest.mark.parametrize("url", ["http://ann:s3cret/word@127.0.0.1:1", "http://ann:s3cretword/@127.0.0.1:1"])
async def test_a_password_in_a_page_is_not_shown(nats_server, url):
    async with StreamBroker.connect(nats_server.url) as sb:
        assert "s3cret" not in str(await refused(sb, monitoring=url))


@pytest.mark.nats
async def test_a_server_of_ones_own_syncs_every_write():
    async with StreamBroker.connect("embedded://") as sb:
        await sb.declare(MONEY)


@pytest.mark.parametrize("durability", ["fsync", "os"])
async def test_a_twin_in_memory_says_what_it_is(memory_stream_broker, durability):
    with pytest.raises(ConfigDrift, match="twin in memory") as caught:
        await memory_stream_broker.declare(StreamOptions("MONEY", ["money.>"], durability=durability))
    assert caught.value.differences == {"durability": (durability, "none")}
    await memory_stream_broker.declare(StreamOptions("MONEY", ["money.>"], durability=durability), unproven="warn")


@pytest.mark.parametrize("options", [{"storage": "memory"}, {"persist_mode": "async", "atomic": False}], ids=str)
def test_what_contradicts_it_is_refused(options):
    with pytest.raises(InvalidOption) as caught:
        StreamOptions("MONEY", ["money.>"], durability="os", **options)
    assert caught.value.option == "durability"


@pytest.mark.parametrize(
    ("how", "option"),
    [({"unproven": "maybe"}, "unproven"), ({"monitoring": [7]}, "monitoring"), ({"monitoring": 123}, "monitoring")],
)
async def test_options_that_mean_nothing_are_refused(memory_stream_broker, how, option):
    with pytest.raises(InvalidOption) as caught:
        await memory_stream_broker.declare(MONEY, **how)
    assert caught.value.option == option
