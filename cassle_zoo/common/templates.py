"""Pages and cards from jinja2 templates, and the images in them.

HTML is escaped; Markdown has its own filters.
"""

import base64
import hashlib
import io
import re
from functools import cache
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup, escape
from PIL import Image

from cassle_zoo.common import markdown
from cassle_zoo.common.images import to_rgb

_QUALITIES = (80, 60, 40, 20, 5)  # of thumbnails


def render(package: str, template: str, **values: Any) -> str:
    """Fill in a template.

    Args:
        package: The package whose folder `templates` holds it, such as `cassle_zoo.eval.report`.
            It can extend templates of `cassle_zoo.common`, such as `base.html` of all pages.
        template: Its name: `*.html` is escaped, `*.md` is not. In Markdown `{{ value | inline }}`
            confines a value of any origin to its line, `{{ command | shell_block }}` to its block.
            In HTML `{{ name | breakable }}` allows line breaks between the parts of a long name,
            and `{{ content | data_uri("png") }}` embeds the bytes of an image.
        **values: Its variables. A variable that is not given is an error.

    Returns:
        The text with one final newline. It can be encoded as UTF-8: bytes of file names that are
        not valid text become question marks.
    """
    text = _environment(package).get_template(template).render(**values).rstrip("\n") + "\n"
    return text.encode("utf-8", "replace").decode("utf-8")


def data_uri(content: bytes, kind: str) -> str:
    """Return the address that embeds an image; `kind` is `webp`, `png`, `svg+xml`, ..."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"


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


@cache
def _environment(package: str) -> Environment:
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package), PackageLoader("cassle_zoo.common")]),
        autoescape=select_autoescape(["html"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "inline": markdown.inline,
        "shell_block": markdown.shell_block,
        "breakable": _breakable,
        "data_uri": data_uri,
        "csp_hash": _csp_hash,
    }
    environment.globals["table"] = markdown.table
    return environment


def _breakable(name: Any) -> Markup:
    return Markup(re.sub(r"([_.:/-])(?=\w)", r"\1<wbr>", str(escape(name))))


def _csp_hash(script: str) -> str:
    """Return the hash by which a Content-Security-Policy allows a script."""
    digest = hashlib.sha256(str(script).encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode('ascii')}"
