"""The shipped server configuration on loopback: certificates and passwords made here and now, one login per role."""

import asyncio
import os
import ssl
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from broker import StreamBroker
from broker.server import NatsServer, without_store_dir
from broker.server.config import read_config
from services.events import ALL_CONSUMERS, ALL_STREAMS

TOP = Path(__file__).resolve().parents[1]
NATS = TOP / "deploy" / "nats"
ROLES = ("room", "gateway", "settlement", "leaderboard", "mail", "audit", "dashboard", "admin")
"""Of the account of the services; each has its own inbox prefix."""


@dataclass(frozen=True)
class Secrets:
    """What git does not have.

    Attributes:
        directory: of the certificates.
        passwords: as the script prints them, by variable.
    """

    directory: Path
    passwords: dict[str, str] = field(repr=False)

    @classmethod
    def make(cls, directory):
        """With the scripts that are shipped."""
        subprocess.run([NATS / "certificates.sh", directory], check=True, capture_output=True)
        told = subprocess.run([NATS / "passwords.sh"], check=True, capture_output=True, text=True).stdout
        return cls(directory, dict(line.split("=", 1) for line in told.splitlines()))

    @property
    def ca(self):
        return self.directory / "ca.pem"

    @property
    def variables(self):
        """Everything the configuration files name."""
        files = {"NATS_CERT": self.directory / "node.pem", "NATS_KEY": self.directory / "node.key", "NATS_CA": self.ca}
        return {"NATS_NAME": "nats-1", **{name: str(path) for name, path in files.items()}, **self.passwords}

    def tls(self):
        return ssl.create_default_context(cafile=str(self.ca))

    def password(self, role):
        return self.passwords[f"{role.upper().replace('-', '_')}_PASSWORD"]

    def connect(self, server, role, **options):
        """As that role, with what the documentation says it connects with."""
        if role in ROLES:
            options = {"inbox_prefix": f"_INBOX_{role}", **options}
        named = {"user": role, "password": self.password(role), "tls": self.tls(), "name": role}
        return StreamBroker.connect(server.url, **{**named, **options})

    def environment(self, role, **more):
        """What a service's process is told."""
        told = {"NATS_USER": role, "NATS_PASSWORD": self.password(role), "NATS_CA": str(self.ca)}
        if secret := self.passwords.get(f"{role.upper()}_ID_SECRET"):
            told["NATS_ID_SECRET"] = secret
        return {**os.environ, **told, "NATS_INBOX_PREFIX": f"_INBOX_{role}", "NATS_ENSURE": "bind", **more}


def single(secrets):
    """One node as ``single.conf`` describes it; address, store and monitoring are this run's."""
    server = NatsServer(config=without_store_dir(read_config(NATS / "single.conf")), monitoring=True)
    server.env = secrets.variables
    return server


async def declare_as(admin):
    """Every stream and consumer the roles work with."""
    await admin.declare(*ALL_STREAMS)
    await admin.dead_letters.declare()
    for consumer in ALL_CONSUMERS:
        await admin.consumers.ensure(consumer)


async def declare(node, secrets):
    async with secrets.connect(node, "admin") as admin:
        await declare_as(admin)


@contextmanager
def shipped_server(secrets):
    """As it is deployed, with everything declared; on a loop of its own, since it outlives every test's."""
    node = single(secrets)
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        runner.run(node.start())
        runner.run(declare(node, secrets))
        yield node
        runner.run(node.stop())
