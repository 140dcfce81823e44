"""What is counted of one event type. Numbers only grow."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class ContractStats:
    """Counted by one broker since its first event of the type.

    Attributes:
        sent: events sent (QoS 0) or stored.
        journaled: of those at QoS 2, what the journal took and had not seen stored when ``send`` returned.
        duplicates: events whose key the stream had already.
        received: deliveries to handlers, repeats included.
        lost: at QoS 0, events that this process should have got and did not, wherever they went: gaps in their
            senders' numbers. Not counted in a queue group, whose members share.
        redelivered: deliveries of a second attempt or later.
        repeats: at QoS 2 with an inbox, deliveries whose effect was there already.
        malformed: deliveries that were not the event; dropped at QoS 0, dead letters at the others.
    """

    sent: int = 0
    journaled: int = 0
    duplicates: int = 0
    received: int = 0
    lost: int = 0
    redelivered: int = 0
    repeats: int = 0
    malformed: int = 0

    @property
    def loss_rate(self) -> float:
        """Of the events that should have come, the share that did not: 0 to 1."""
        return _share(self.lost, self.lost + self.received)

    @property
    def retry_rate(self) -> float:
        """Of the deliveries, the share that was not the first attempt: 0 to 1."""
        return _share(self.redelivered, self.received)

    @property
    def dedup_hit_rate(self) -> float:
        """Of what was sent and delivered here, the share that was recognized as a repeat: 0 to 1."""
        return _share(self.duplicates + self.repeats, self.sent + self.received)


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
