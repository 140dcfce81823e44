"""Leaderboard: points become standings, each event counted once."""
