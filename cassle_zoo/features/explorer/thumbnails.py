"""Thumbnails for pages: small WebP images of bounded size, each stored once in its page."""

import base64
import io

from PIL import Image

from cassle_zoo.common.images import to_rgb

_QUALITIES = (80, 60, 40, 20, 5)


def encode_thumbnail(image: Image.Image, side: int, most: int) -> str:
    """Shrink an image and encode it as WebP, in base64.

    Args:
        image: Of any mode; it is not changed.
        side: The longer side, in pixels; smaller images stay as they are.
        most: Largest size in bytes. The best of a few qualities that fits is chosen, or else the
            lowest.

    Returns:
        Base64 of the file.
    """
    small = to_rgb(image)
    width, height = small.size
    longer = max(width, height)
    if longer > side:
        # Image.thumbnail would make the shorter side of long images 0.
        size = (max(1, round(width * side / longer)), max(1, round(height * side / longer)))
        small = small.resize(size, Image.Resampling.LANCZOS, reducing_gap=3)
    content = b""
    for quality in _QUALITIES:
        buffer = io.BytesIO()
        small.save(buffer, "WEBP", quality=quality, method=4)
        content = buffer.getvalue()
        if len(content) <= most:
            break
    return base64.b64encode(content).decode("ascii")
