"""Faster computation of the same numbers; may be deleted without changing a result."""
