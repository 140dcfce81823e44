"""The link on nats-py: what it does well is left to it, and its hot paths are ours."""

from broker.backends.nats.natspy.link import NatsPyLink

__all__ = ["NatsPyLink"]
