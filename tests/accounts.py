"""What a broker keeps account of: whatever it holds for somebody who waits, listens or works.

The containers are found, not named, so that one that is added later is watched from its first day.
"""

_UNCOUNTED = {"_heads", "_turn", "_stream_at", "_deadlines"}
"""Caches, what is there only until the turn is over, and deadlines, which stay until they pass or are too many."""


def accounts(sb):
    """How much is in each container, by owner and name; empty ones included."""
    backend = getattr(sb._backend, "_backend", sb._backend)  # inside what traces it
    owners = {"roster": sb._roster, "watchers": backend.board._watchers, "denials": backend.board.denials}
    if session := getattr(backend, "_session", None):
        owners |= {"session": session, "replies": session.replies}
        owners |= {"link": session.link, "outbound": session.link._outbound}
    else:
        owners |= {"backend": backend, "outbox": backend.outbox}
    return {
        f"{owner}.{name}": len(value)
        for owner, each in owners.items()
        for name, value in vars(each).items()
        if isinstance(value, dict | set | list | tuple) and name not in _UNCOUNTED
    }


def grown(sb, before):
    """What holds more than ``before``: from how much to how much, by owner and name."""
    now = accounts(sb)
    return {name: (before.get(name, 0), count) for name, count in now.items() if count > before.get(name, 0)}
