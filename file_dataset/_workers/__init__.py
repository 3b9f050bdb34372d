"""fn in worker processes: the other side of the line, one process, many."""
