"""The version of cassle_zoo."""

__version__ = "0.2.0"
