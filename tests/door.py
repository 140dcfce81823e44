"""A door in front of a server: a relay on loopback that can be shut, to keep one client out while others go in."""

import asyncio
from contextlib import asynccontextmanager


class Door:
    """Stands between a client and one server.

    Attributes:
        port: where the client connects.
        open: whether a client that knocks is let in.
        swallows: what is lost on its way from now on: nothing (``None``), what clients say (``"asked"``), or what the
            server says (``"answered"``). Shut the door before it passes on the rest.
        swallowed: all that was lost so.
    """

    def __init__(self, server_port):
        self._server_port = server_port
        self._writers = set()
        self.port = 0
        self.open = True
        self.swallows = None
        self.swallowed = bytearray()

    @property
    def url(self):
        return f"nats://127.0.0.1:{self.port}"

    def shut(self):
        """Throw everybody out and let nobody in."""
        self.open = False
        for writer in self._writers:
            writer.transport.abort()

    async def let_through(self, reader, writer):
        if not self.open:
            writer.transport.abort()
            return
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._server_port)
        self._writers |= {writer, far_writer}
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._relay(reader, far_writer, "asked"))
                group.create_task(self._relay(far_reader, writer, "answered"))
        finally:
            self._writers -= {writer, far_writer}

    async def _relay(self, reader, writer, what):
        try:
            while data := await reader.read(1 << 16):
                if self.swallows == what:
                    self.swallowed += data
                else:
                    writer.write(data)
                    await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.transport.abort()


@asynccontextmanager
async def door_to(server):
    """A door to the server, open at first."""
    door = Door(server.port)
    async with await asyncio.start_server(door.let_through, "127.0.0.1", 0) as listening:
        door.port = listening.sockets[0].getsockname()[1]
        yield door
        door.shut()
