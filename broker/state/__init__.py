"""The latest-wins state channel: a room's state thirty times a second, where only the newest counts.

The rules stand in files without I/O: ``frames`` (what is on the wire), ``delta`` (what changed, and putting it back
together), ``composing`` (which frame comes next), ``following`` (what a frame means to a reader), ``rooms`` (a room's
subjects), ``parts`` (which entity and field an error is about). ``publisher``, ``reader`` and ``asking`` connect them
to a broker.
"""
