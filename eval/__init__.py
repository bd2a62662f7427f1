"""Evaluation of backbones: datasets, protocols and recorded results."""
