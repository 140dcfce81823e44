"""A small game back end built on ``broker``: real processes, small but honest. Not part of the wheel."""
