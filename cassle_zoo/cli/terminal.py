"""What goes to a terminal must not steer it: names of files and texts of others may try to."""


def printable(text: str) -> str:
    """Return a text with everything escaped that has no look of its own, such as ESC or newlines.

    Args:
        text: Of any origin; bytes of file names that are no UTF-8 are escaped too.
    """
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text
    )
