"""The ``cassle-zoo`` command line: one module per command, heavy imports only when one runs."""
