"""Times as counts per tenth of a millisecond: they travel between processes, add up, and have quantiles."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_PER_MS = 10


class Histogram:
    """Counts as ``Lateness.counts`` gives them. A quantile is told as the upper end of its tenth of a millisecond."""

    def __init__(self, counts: Mapping[int, int]) -> None:
        self.counts = {index: count for index, count in sorted(counts.items()) if count}

    @classmethod
    def between(cls, before: Mapping[Any, int], after: Mapping[Any, int]) -> Self:
        """What was counted after ``before``; keys may be text, as JSON has them."""
        earlier = {int(index): count for index, count in before.items()}
        return cls({int(index): count - earlier.get(int(index), 0) for index, count in after.items()})

    @classmethod
    def of(cls, parts: Iterable[Histogram]) -> Self:
        """All of them together."""
        total: Counter[int] = Counter()
        for part in parts:
            total.update(part.counts)
        return cls(total)

    @property
    def total(self) -> int:
        """How many were counted."""
        return sum(self.counts.values())

    @property
    def max(self) -> float:
        """Milliseconds the slowest took, 0.0 when there are none; the top of the scale is 200.1 and means "or more"."""
        return (next(reversed(self.counts)) + 1) / _PER_MS if self.counts else 0.0

    def quantile(self, share: float) -> float:
        """Milliseconds that ``share`` of all did not exceed; 0.0 when there are none."""
        needed, counted = math.ceil(share * self.total), 0
        for index, count in self.counts.items():
            counted += count
            if counted >= needed:
                return (index + 1) / _PER_MS
        return 0.0
