"""What the answers that an examination goes by look like. One of another shape says nothing, and is told as that."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
from msgspec import Struct

S = TypeVar("S", bound=Struct)


class Rights(Struct):
    """On one verb."""

    allow: list[str] | None = None
    deny: list[str] | None = None


class Permissions(Struct):
    """Of a user."""

    publish: Rights | None = None
    subscribe: Rights | None = None


class User(Struct):
    """Whom the server takes us for."""

    permissions: Permissions | None = None


class Server(Struct):
    """Who answers."""

    time: str = ""


class UserInfo(Struct):
    """``$SYS.REQ.USER.INFO``."""

    data: User | None = None
    server: Server | None = None


class Account(Struct):
    """``$JS.API.INFO``."""

    memory: int = 0
    storage: int = 0
    streams: int = 0
    consumers: int = 0
    limits: dict[str, int | bool] | None = None


class Config(Struct):
    """Of a stream."""

    name: str
    num_replicas: int = 1


class Member(Struct):
    """A node with a copy."""

    name: str = ""
    offline: bool = False
    current: bool = False


class Placed(Struct):
    """Where its copies are."""

    leader: str = ""
    replicas: list[Member] | None = None


class Listed(Struct):
    """A stream."""

    config: Config
    cluster: Placed | None = None


class Page(Struct):
    """``$JS.API.STREAM.LIST``."""

    total: int = 0
    streams: list[Listed] | None = None
    missing: list[str] | None = None


def shaped(answer: Any, shape: type[S]) -> S:
    """The answer as that.

    Raises:
        ValueError: it is something else; says where.
    """
    try:
        return msgspec.convert(answer, shape)
    except msgspec.ValidationError as exc:
        raise ValueError(f"an answer we do not understand: {exc}") from None
