"""The same numbers up to rounding, sooner; every caller works without it."""
