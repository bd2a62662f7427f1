"""Errors, configuration checks, files, images, devices and seeds; knows nothing of models."""
