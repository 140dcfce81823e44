"""Metrics: the counters of ``Stats``, read when they are collected, and how long operations and handlers take."""

from __future__ import annotations

import threading
import weakref
from collections import Counter
from dataclasses import fields
from functools import partial
from typing import TYPE_CHECKING, Final

from opentelemetry import metrics
from opentelemetry.metrics import NoOpMeterProvider, Observation

from broker.contracts.status import Stats
from broker.telemetry.naming import SYSTEM

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from opentelemetry.metrics import CallbackOptions, Meter, MeterProvider

SCOPE: Final = "gamebroker"

_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)


class Instruments:
    """What is measured under one meter provider, by every broker of the process that uses it.

    Attributes:
        operation: seconds a request or an enqueue took.
        process: seconds a handler took.
        counters: the counters of ``Stats``.
    """

    def __init__(self, meter: Meter) -> None:
        self.operation = meter.create_histogram(
            "messaging.client.operation.duration",
            unit="s",
            description="How long a messaging operation took.",
            explicit_bucket_boundaries_advisory=_SECONDS,
        )
        self.process = meter.create_histogram(
            "messaging.process.duration",
            unit="s",
            description="How long a handler took.",
            explicit_bucket_boundaries_advisory=_SECONDS,
        )
        self.counters = Counters(meter)


class Counters:
    """``gamebroker.<counter>``: the sum over the process's brokers of one system. It never goes down.

    A broker counts as long as it is open and its final numbers stay in the sum, so closing one is no dip. Nothing
    happens on the hot path: the numbers are read when a reader collects, in the reader's thread.
    """

    def __init__(self, meter: Meter) -> None:
        # Re-entrant: a collection of garbage while it is held may run the end of a forgotten broker.
        self._lock = threading.RLock()
        self._open: dict[int, tuple[str, Stats]] = {}
        self._closed: Counter[tuple[str, str]] = Counter()
        self._systems: set[str] = set()
        for field in fields(Stats):
            meter.create_observable_counter(
                f"gamebroker.{field.name}",
                callbacks=[partial(self._observe, field.name)],
                description=f"Stats.{field.name} of the process's brokers",
            )

    def follow(self, owner: object, system: str, stats: Stats) -> Callable[[], object]:
        """Count these; returns how to end that. It ends by itself when the owner is forgotten without a close."""
        with self._lock:
            self._systems.add(system)
            self._open[id(stats)] = (system, stats)
        end = weakref.finalize(owner, self._retire, id(stats))
        end.atexit = False
        return end

    def _retire(self, key: int) -> None:
        with self._lock:
            ended = self._open.pop(key, None)
            if ended is not None:  # a backend wrapped twice counts once
                system, stats = ended
                self._closed.update({(system, name): count for name, count in stats.as_dict().items()})

    def _observe(self, name: str, _: CallbackOptions) -> Iterable[Observation]:
        with self._lock:
            totals = Counter({system: self._closed[system, name] for system in self._systems})
            totals.update(self._sum_open(name))
        return [Observation(total, {SYSTEM: system}) for system, total in totals.items()]

    def _sum_open(self, name: str) -> Counter[str]:
        totals: Counter[str] = Counter()
        for system, stats in tuple(self._open.values()):
            totals[system] += getattr(stats, name)
        return totals


_KNOWN: Final[weakref.WeakKeyDictionary[MeterProvider, Instruments]] = weakref.WeakKeyDictionary()
_OFF: Final = Instruments(NoOpMeterProvider().get_meter(SCOPE))


def instruments_of(provider: MeterProvider | None, version: str) -> Instruments:
    """The instruments under a provider (``None``: the global one), made once for each."""
    if provider is None:
        provider = metrics.get_meter_provider()
        if type(provider).__module__.startswith(metrics.__name__):
            # None was set. The API's stand-in would wake up when one is set later, beside those made then.
            return _OFF
    known = _KNOWN.get(provider)
    if known is None:
        known = _KNOWN[provider] = Instruments(provider.get_meter(SCOPE, version))
    return known
