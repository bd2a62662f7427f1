"""Datasets, and batches of views from them."""
