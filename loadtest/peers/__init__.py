"""One small file per client that is measured, each run as a process of its own."""
