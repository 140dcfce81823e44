"""NATS with JetStream. ``open_backend`` is the way in; nothing else here is public."""

from broker.backends.nats.backend import open_backend

__all__ = ["open_backend"]
