"""Long retries: a message whose next attempt is far away waits in a schedule, and leaves its place to others.

``copies`` are rules; ``later`` keeps what waits, ``source`` brings it back among the group's messages, and ``settling``
decides which way a message goes.
"""
