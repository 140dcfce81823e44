"""How many rooms one room process and one server hold: ``python -m loadtest.capacity``.

``search`` says which number of rooms is tried next, ``step`` tries it with real processes (the server, one
``services.game_room``, one or more ``generator``), ``limits`` judges what was measured, ``report`` prints the curve.
Open loop: the generator sends on its own schedule whatever comes back, and every time is taken from when something was
*due*, not from when it was sent, so that nothing that waits hides how long it waited.
"""
