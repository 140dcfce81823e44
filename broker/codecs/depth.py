"""How deep a JSON text is nested, found out before anything is built of it. Linear, whatever the text."""

from __future__ import annotations

import re
from itertools import accumulate
from typing import Final

_ALL_BUT_BRACKETS: Final = bytes(set(range(256)) - set(b"[]{}"))
_STEPS: Final = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}
# One that does not end goes to the end of the text: looked for again from each of its quotes it would take for ever.
_STRING: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)', re.DOTALL)


def deeper_than(levels: int, text: bytes) -> bool:
    """Whether arrays and objects are nested in more levels than that; of a malformed text, up to where it is one."""
    if len(text) <= levels or text.count(b"[") + text.count(b"{") <= levels:
        return False
    brackets = _STRING.sub(b"", text).translate(None, _ALL_BUT_BRACKETS)
    return max(accumulate(map(_STEPS.__getitem__, brackets)), default=0) > levels
