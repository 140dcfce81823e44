"""One connection when its socket ends: whoever publishes at that moment must not hear of it."""

import asyncio
import os
import socket
import struct

import pytest
import uvloop

from broker.backends.nats.wire.connection import Connection


class Room:
    def __init__(self):
        self.receivers = {}
        self.gone = []

    def on_info(self, connection, info):
        """Nothing is said here."""

    def on_error(self, connection, text):
        """Nothing is said here."""

    def on_gone(self, connection):
        self.gone.append(connection)


def reset(_connection, peer):
    peer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.transport.abort()


def hang_up(_connection, peer):
    peer.close()


def break_off(connection, _peer):
    """What the loop does by itself when a write fails."""
    connection.transport.abort()


def shut_down(connection, _peer):
    """What the system does when an interface goes away."""
    with socket.socket(fileno=os.dup(connection.transport.get_extra_info("socket").fileno())) as ours:
        ours.shutdown(socket.SHUT_RDWR)


async def publishing_past_the_end(end, frame):
    accepted = asyncio.get_running_loop().create_future()
    room = Room()
    connection = Connection(None, room)
    serving = asyncio.start_server(lambda _, writer: accepted.set_result(writer), "127.0.0.1", 0)
    async with await serving as server:
        await asyncio.get_running_loop().create_connection(lambda: connection, *server.sockets[0].getsockname())
        peer = await accepted
        connection.write(frame)
        end(connection, peer)
        async with asyncio.timeout(10):
            while not room.gone:
                connection.write(frame)
                assert connection.buffered() >= 0
                await asyncio.sleep(0)
        for _ in range(10):
            connection.write(frame)
            await asyncio.sleep(0)
        assert connection.buffered() == 0
        assert room.gone == [connection]
        peer.transport.abort()


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
@pytest.mark.parametrize("end", [reset, hang_up, break_off, shut_down])
@pytest.mark.parametrize("size", [10, 200_000])
def test_writing_while_the_socket_ends_is_no_error(new_loop, end, size):
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(publishing_past_the_end(end, b"x" * size))
