"""What a run writes down of its rows, so that a later one goes on where it ended."""
