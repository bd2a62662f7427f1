"""Solvers of the probes: pure functions of tensors."""
