"""Evaluation of frozen backbones: datasets, protocols and recorded results."""
