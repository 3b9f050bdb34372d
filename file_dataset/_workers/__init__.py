"""fn in worker processes: what passes between both sides, the other side, one process, many."""
