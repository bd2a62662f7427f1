"""Checkpoints of other code, read as model folders."""
