"""For people who test: the pytest plugin, waiting with a deadline, and the conformance suite a backend must pass."""
