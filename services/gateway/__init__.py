"""Gateways: players' commands in, one message per room and tick; frames out to the players who are here."""
