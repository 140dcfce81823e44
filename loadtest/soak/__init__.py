"""The soak: minutes of mixed traffic under random disconnects, and whether anything grew, leaked or went missing."""
