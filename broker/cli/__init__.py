"""The ``gamebroker`` command: look at a server, send by hand, replay dead letters."""
