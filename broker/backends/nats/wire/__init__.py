"""Our own link: the NATS client protocol on ``asyncio.Protocol``, without a client library."""

from broker.backends.nats.wire.link import WireLink

__all__ = ["WireLink"]
