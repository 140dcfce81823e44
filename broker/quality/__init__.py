"""Contracts kept: what an event type declares decides how it is sent, handled, checked at the start, and counted."""
