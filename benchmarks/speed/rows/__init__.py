"""One module per row of the table: ``measure(rounds)`` returns a :class:`benchmarks.speed.row.Row`."""
