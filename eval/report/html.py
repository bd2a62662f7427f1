"""Self-contained HTML pages: nothing from outside, no script but their own, light and dark."""

import base64
import hashlib
import html
import io
import re
from typing import Any

from PIL import Image

from cassle_zoo.common.images import to_rgb

_THUMBNAIL = 112

_STYLE = """
:root { color-scheme: light dark; --ink: #1d2733; --faint: #566170; --line: #cfd6df;
  --panel: #eef2f7; --page: #fff; --accent: #1f5fa3; --right: #00694d; --wrong: #a83f00; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6eaf0; --faint: #a5b0be; --line: #3b4552;
  --panel: #202936; --page: #14191f; --accent: #86bbf0; --right: #4fd0a5; --wrong: #ff9d5c; } }
* { box-sizing: border-box; }
[hidden] { display: none !important; }
body { margin: 0 auto; padding: 1rem; max-width: 76rem; background: var(--page); color: var(--ink);
  font: 0.95rem/1.45 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; line-height: 1.2; margin: 0.3rem 0 0.6rem; }
a { color: var(--accent); }
:focus-visible { outline: 3px solid var(--accent); outline-offset: 2px; }
form { display: flex; flex-wrap: wrap; gap: 0.5rem 1rem; align-items: center; margin: 1rem 0; }
input, select { font: inherit; color: inherit; background: var(--page); padding: 0.3rem 0.5rem;
  border: 1px solid var(--faint); border-radius: 0.3rem; max-width: 100%; }
.faint, output { color: var(--faint); }
"""

_FILTER = """
const form = document.querySelector('form');
const rows = [...document.querySelectorAll('[data-text]')];
function filter() {
  const words = form.text.value.toLowerCase().split(/\\s+/).filter(Boolean);
  const kind = form.kind ? form.kind.value : '';
  let shown = 0;
  for (const row of rows) {
    row.hidden = !words.every(word => row.dataset.text.includes(word))
      || (kind !== '' && row.dataset.kind !== kind);
    shown += !row.hidden;
  }
  for (const part of document.querySelectorAll('main > section:not([data-text])'))
    part.hidden = !part.querySelector('[data-text]:not([hidden])');
  form.querySelector('output').textContent = `${shown} of ${rows.length}`;
}
function fromAddress() {
  const fields = new URLSearchParams(location.hash.slice(1));
  for (const name of ['text', 'kind'])
    if (fields.has(name) && form[name]) form[name].value = fields.get(name);
  filter();
}
if (form) {
  form.hidden = false;
  form.addEventListener('input', filter);
  form.addEventListener('submit', event => event.preventDefault());
  addEventListener('hashchange', fromAddress);
  fromAddress();
}
"""

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src '{hash}'">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
{body}
<script>{script}</script>
</body>
</html>
"""


def render(title: str, body: str, *, style: str = "", script: str = "") -> str:
    """Return a page.

    A form with a field `text`, and perhaps `kind`, filters what has `data-text` (and `data-kind`),
    and hides sections of `main` with nothing left; `#text=WORDS&kind=KIND` in the address fills it
    in. It is made visible by the script only.

    Args:
        title: Plain text.
        body: HTML; whatever comes from elsewhere in it is escaped.
        style: More CSS.
        script: More JavaScript.

    Returns:
        The page, to be saved as UTF-8.
    """
    code = _FILTER + script
    digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    return _PAGE.format(
        title=escape(title), body=body, style=_STYLE + style, script=code, hash=f"sha256-{digest}"
    )


def escape(text: Any) -> str:
    """Return text for HTML, also within quotes."""
    # Names of files that are not valid text would make the page impossible to encode.
    return html.escape(str(text).encode("utf-8", "replace").decode("utf-8"))


def breakable(text: str) -> str:
    """Return a name for HTML that may be broken where its parts meet."""
    return re.sub(r"([_.:/-])(?=\w)", r"\1<wbr>", escape(text))


def data_uri(content: bytes, kind: str) -> str:
    """Return the address that holds an image; `kind` is `webp`, `png`, `svg+xml`, ..."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"


def thumbnail_uri(image: Image.Image, size: int = _THUMBNAIL) -> str:
    """Return the address that holds a small copy, no side longer than `size` pixels."""
    small = to_rgb(image).copy()
    small.thumbnail((size, size), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=85, method=4)
    return data_uri(buffer.getvalue(), "webp")


def filter_form(label: str, kinds: dict[str, str] | None = None) -> str:
    """Return the form that filters: a text field, and a choice among `kinds` by value."""
    choice = ""
    if kinds:
        options = "".join(
            f'<option value="{escape(k)}">{escape(v)}</option>' for k, v in kinds.items()
        )
        options = f'<option value="">all</option>{options}'
        choice = f'<label>Show <select name="kind">{options}</select></label>'
    return (
        f'<form hidden><label>{escape(label)} <input name="text" type="search" autocomplete="off">'
        f'</label>{choice}<output aria-live="polite"></output></form>'
    )
