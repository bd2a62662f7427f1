"""Evaluation of frozen backbones: data sets, protocols and recorded results."""
