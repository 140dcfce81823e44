"""Mail: letters to players, what is attached to them in escrow until it is claimed once or its time is over."""
