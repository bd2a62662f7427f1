"""The ``cassle-zoo`` command line: one module per command, heavy imports only when one runs."""


def printable(text: str) -> str:
    """Return a text that cannot steer a terminal: ESC, newlines and the like are escaped.

    Args:
        text: Of any origin; bytes of file names that are not UTF-8 are escaped too.
    """
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text
    )
