"""Chaos: settlements under planned faults, and whether each took effect exactly once.

``python -m loadtest.chaos`` (or ``gamebroker chaos``) makes a ``plan`` from a seed (``schedule``: pure data, printed
first), and its ``director`` starts a real server, ``producer``, ``worker`` and ``room`` processes and carries the
``scenarios`` out. Every process appends to a history of its own (``histories``); workers settle with ``hands`` that
hold the library's inbox, and write the ``books``, a double-entry ledger, into one of the ``databases``. At the end a
``checker``, one more process, gathers the ``evidence`` from the histories and the books alone and reaches a
``verdict``: what must hold of the effects, how everybody conducted themselves, and whether every planned fault really
fired. A run in which one did not is void. ``mutations`` break the workers on purpose: a checker that does not notice
proves nothing.
"""
