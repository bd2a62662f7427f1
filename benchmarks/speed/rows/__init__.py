"""Rows of the table, one module each: `measure(rounds)` returns a `benchmarks.speed.timing.Row`."""
