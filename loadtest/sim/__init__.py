"""Deterministic simulation: the library's real facades on the memory backend, under faults and time from one seed."""
