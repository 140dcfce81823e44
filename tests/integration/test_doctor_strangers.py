"""What the doctor says where nobody answers, or somebody who is not what one would expect."""

import asyncio
import re
from contextlib import asynccontextmanager, suppress

import pytest

from tests.integration.test_doctor import doctor, levels, said

pytestmark = [pytest.mark.nats, pytest.mark.timeout(120)]


async def test_where_no_server_is_is_a_problem():
    code, found = await doctor("--url", "nats://127.0.0.1:1")
    assert code == 1
    assert levels(found, "server") == levels(found, "connection") == {"problem"}


@pytest.mark.parametrize("first_words", [b"220 smtp\r\n", b"INFO nothing\r\n", b"INFO []\r\n", b""])
async def test_what_is_no_nats_server_is_no_crash(first_words):
    async def speak(_, writer):
        writer.write(first_words)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(speak, "127.0.0.1", 0) as other:
        port = other.sockets[0].getsockname()[1]
        code, found = await doctor("--url", f"nats://127.0.0.1:{port}")
    assert code == 1
    assert levels(found, "connection") == {"problem"}


@asynccontextmanager
async def said_otherwise(server, pattern, instead):
    """An address of the server where it says something else than it does; as many bytes."""

    async def carry(reader, writer, change):
        with suppress(OSError):
            while part := await reader.read(1 << 16):
                writer.write(change(part))
                await writer.drain()
        writer.close()

    async def meet(reader, writer):
        theirs, ours = await asyncio.open_connection("127.0.0.1", server.settings.port)
        there = asyncio.ensure_future(carry(reader, ours, bytes))
        await carry(theirs, writer, lambda part: re.sub(pattern, instead, part))
        await there

    async with await asyncio.start_server(meet, "127.0.0.1", 0) as door:
        yield f"nats://127.0.0.1:{door.sockets[0].getsockname()[1]}"


async def test_a_server_of_an_old_version_is_a_problem(nats_server):
    async with said_otherwise(nats_server, rb'"version":"2\.15\.\d"', b'"version":"2.12.5"') as url:
        code, found = await doctor("--url", url)
    assert (code, levels(found, "version")) == (1, {"problem"})
    assert "2.12.5" in said(found, "version")
    assert "Upgrade to 2.12.6 or newer." in said(found, "version")


@pytest.mark.parametrize(("year", "way"), [(b"2099", "ahead"), (b"2001", "behind")])
async def test_a_clock_that_is_off_is_a_problem(nats_server, year, way):
    async with said_otherwise(nats_server, rb'"time":"20\d\d', b'"time":"' + year) as url:
        code, found = await doctor("--url", url)
    assert (code, levels(found, "clock")) == (1, {"problem"})
    assert f"s {way} (give or take" in said(found, "clock")
