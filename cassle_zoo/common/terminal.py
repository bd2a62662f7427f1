"""Texts of any origin, for a terminal."""


def printable(text: str) -> str:
    """Escape ESC, newlines and the like in a text, so that it cannot control a terminal.

    Args:
        text: A text of any origin; bytes of file names that are not UTF-8 are escaped too.
    """
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text
    )
