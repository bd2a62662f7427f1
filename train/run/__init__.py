"""Files of a run, and its guards against faults."""
