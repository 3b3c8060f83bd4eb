"""Progress of long operations, shown on a terminal."""
