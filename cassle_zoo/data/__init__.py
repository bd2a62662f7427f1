"""Datasets, and listings of images that features, training and evaluation read."""
