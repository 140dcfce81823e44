"""nats.js in a process of its own, told what to do line by line; see ``client.mjs`` for the verbs."""

import asyncio
import base64
import json
from contextlib import suppress
from itertools import count

PATIENCE = 60.0
"""Seconds it has for an answer, and for its end."""


class Refused(Exception):
    """What it raised over there: the name of the class, its words, and a number where it has one."""

    def __init__(self, name, message, code):
        super().__init__(f"{name}: {message}")
        self.name = name
        self.code = code


class NatsJs:
    """Calls of its verbs, any number at once: ``await theirs("append", subject="a", data=packed(b"x"))``."""

    def __init__(self, process):
        self._process = process
        self._numbers = count()
        self._waiting = {}
        self._reading = asyncio.create_task(self._read())

    @classmethod
    async def start(cls, command, url):
        process = await asyncio.create_subprocess_exec(
            *command, url, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=1 << 24
        )
        line = await asyncio.wait_for(process.stdout.readline(), PATIENCE)
        if not line:
            raise EOFError(f"nats.js ended with {await process.wait()} before it was ready")
        return cls(process)

    async def __call__(self, verb, **given):
        number = next(self._numbers)
        answer = self._waiting[number] = asyncio.get_running_loop().create_future()
        self._process.stdin.write(json.dumps({"id": number, "verb": verb, "given": given}).encode() + b"\n")
        told = await asyncio.wait_for(answer, PATIENCE)
        if "error" in told:
            raise Refused(**told["error"])
        return told["told"]

    async def stop(self):
        self._process.stdin.close()
        try:
            await asyncio.wait_for(self._process.wait(), PATIENCE)
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
        self._reading.cancel()
        with suppress(asyncio.CancelledError):
            await self._reading

    async def _read(self):
        async for line in self._process.stdout:
            told = json.loads(line)
            answer = self._waiting.pop(told["id"])
            if not answer.done():  # else nobody waits any more
                answer.set_result(told)
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(EOFError("nats.js ended"))


def packed(data):
    """Bytes as the line has them."""
    return base64.b64encode(data).decode()


def unpacked(text):
    """And back."""
    return base64.b64decode(text)
