"""Pages and cards from jinja2 templates. HTML is escaped; Markdown has its own filters."""

import base64
import hashlib
import re
from functools import cache
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup, escape

from cassle_zoo.common import markdown


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
