"""Datasets and listings of images that training and evaluation both read."""
