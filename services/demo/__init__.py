"""``make demo``: battles end to end on a real server, one worker killed half-way, and a verdict from the evidence."""
