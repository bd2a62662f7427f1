"""Augmented views for evaluation, and what networks make of them."""
