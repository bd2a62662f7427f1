"""The ``cassle-zoo`` command line: one module per command, heavy imports only when one runs."""

from cassle_zoo.common.terminal import busy, printable

__all__ = ["busy", "printable"]
