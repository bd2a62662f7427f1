"""Measurements: speed beside peers, the study of CASSLE against its baselines, near duplicates."""
