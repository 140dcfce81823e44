"""Who gets a core message: subscriptions by pattern, queue groups, and a memory of answers. No I/O."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

    from broker.contracts.backend import Deliver

_REMEMBERED: Final = 8192


class Subscription:
    """One subscriber's interest in a pattern.

    Attributes:
        deaf_to: the sender whose messages it does not get: its own connection's, when there is to be no echo.
    """

    __slots__ = ("active", "deaf_to", "deliver", "pattern", "queue")

    def __init__(self, pattern: str, deliver: Deliver, queue: str | None, deaf_to: object | None = None) -> None:
        self.pattern = pattern
        self.deliver = deliver
        self.queue = queue
        self.deaf_to = deaf_to
        self.active = True

    def hears(self, sender: object | None) -> bool:
        """Whether it takes this sender's messages now."""
        return self.active and (sender is None or self.deaf_to is not sender)


class Group:
    """The members of one queue group that match one subject; each message goes to one of them, in turn."""

    __slots__ = ("_members", "_turn")

    def __init__(self, members: list[Subscription]) -> None:
        self._members = members
        self._turn = count()

    def choose(self, sender: object | None = None) -> Subscription | None:
        """Whose turn it is, passing over those that stopped meanwhile or do not listen to this sender."""
        for _ in self._members:
            chosen = self._members[next(self._turn) % len(self._members)]
            if chosen.hears(sender):
                return chosen
        return None


class Route:
    """Everybody a subject goes to."""

    __slots__ = ("_groups", "_plain")

    def __init__(self, matching: list[Subscription]) -> None:
        groups: dict[str, list[Subscription]] = {}
        for each in matching:
            if each.queue is not None:
                groups.setdefault(each.queue, []).append(each)
        self._plain = [each for each in matching if each.queue is None]
        self._groups = [Group(members) for members in groups.values()]

    def receivers(self, sender: object | None = None) -> Iterator[Subscription]:
        """Each plain subscription and one member of each group, as far as they listen to this sender."""
        for each in self._plain:
            if each.hears(sender):
                yield each
        for group in self._groups:
            chosen = group.choose(sender)
            if chosen is not None:
                yield chosen


class _Node:
    __slots__ = ("below", "here")

    def __init__(self) -> None:
        self.below: dict[str, _Node] = {}
        self.here: list[Subscription] = []


class SubscriptionTable:
    """Subscriptions in a tree of tokens, so that matching does not depend on how many there are."""

    def __init__(self) -> None:
        self._root = _Node()
        self._routes: dict[str, Route] = {}

    def add(self, subscription: Subscription) -> None:
        """From now on it matches."""
        node = self._root
        for token in subscription.pattern.split("."):
            node = node.below.setdefault(token, _Node())
        node.here.append(subscription)
        self._routes.clear()

    def remove(self, subscription: Subscription) -> None:
        """From now on it does not match. Idempotent."""
        if not subscription.active:
            return
        subscription.active = False
        path = [self._root]
        tokens = subscription.pattern.split(".")
        for token in tokens:
            path.append(path[-1].below[token])
        path[-1].here.remove(subscription)
        for parent, token in zip(reversed(path[:-1]), reversed(tokens), strict=True):
            node = parent.below[token]
            if node.here or node.below:
                break
            del parent.below[token]
        self._routes.clear()

    def route(self, subject: str) -> Route:
        """Whom the subject goes to; remembered until a subscription comes or goes."""
        route = self._routes.get(subject)
        if route is None:
            if len(self._routes) >= _REMEMBERED:
                self._routes.clear()
            route = self._routes[subject] = Route(list(self.matching(subject)))
        return route

    def matching(self, subject: str) -> Iterator[Subscription]:
        """Every subscription whose pattern covers the subject."""
        level = [self._root]
        for token in subject.split("."):
            following: list[_Node] = []
            for node in level:
                rest = node.below.get(">")
                if rest is not None:
                    yield from rest.here
                following.extend(node.below[each] for each in (token, "*") if each in node.below)
            level = following
        for node in level:
            yield from node.here
