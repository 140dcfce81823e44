"""Keys with revisions on a stream: read, written by compare-and-set, watched."""
