"""Where frames go when the socket is gone already and nobody has heard of it yet."""

import asyncio

import pytest
import uvloop

from broker.backends.nats.natspy.pipes import SocketPipe


async def a_pipe_whose_socket_was_reset():
    accepted = asyncio.get_running_loop().create_future()

    async def accept(_reader, writer):
        accepted.set_result(writer)

    async with await asyncio.start_server(accept, "127.0.0.1", 0) as server:
        transport, _ = await asyncio.get_running_loop().create_connection(
            asyncio.Protocol, *server.sockets[0].getsockname()
        )
        pipe = SocketPipe(transport)
        pipe.write(b"x" * 10)
        (await accepted).transport.abort()
        for _ in range(20):
            pipe.write(b"x" * 100_000)
            assert pipe.buffered() >= 0
            await asyncio.sleep(0.005)
        assert transport.is_closing()
        assert pipe.buffered() == 0


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_writing_to_a_socket_that_is_gone_is_no_error(new_loop):
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(a_pipe_whose_socket_was_reset())
