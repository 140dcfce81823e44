"""Game rooms: a drift-free loop per room, frames out and commands in on the core tier, results on the stream tier."""
