"""How bodies become bytes and back."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class Codec(Protocol):
    """Turns objects into bytes. Stateless and safe to share; raises only ``EncodeError`` and ``DecodeError``."""

    @abstractmethod
    def encode(self, body: Any) -> bytes:
        """The bytes of ``body``. ``bytes`` never get here: they are sent as they are.

        Raises:
            EncodeError: it has no encoding.
        """

    @abstractmethod
    def decode(self, data: bytes, into: type[T]) -> T:
        """The object in ``data``, checked against the type.

        Raises:
            DecodeError: malformed bytes, or a well-formed value of another shape.
        """

    @abstractmethod
    def loads(self, data: bytes) -> Any:
        """The object in ``data`` as plain builtins.

        Raises:
            DecodeError: malformed bytes.
        """
