"""Ordered lanes: one key's messages in their order, keys side by side, over any number of workers.

``assignment``, ``parking`` and ``records`` are rules; ``membership`` hears who works, ``parked`` keeps what waits for
its turn, ``lane`` works through one lane, and ``ordered`` holds the lanes of one worker.
"""
