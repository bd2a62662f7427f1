"""Hooks of mkdocs: the documents of the repository's root become pages, and links follow them."""

import os
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File
from mkdocs.utils import get_relative_url

ROOT = Path(__file__).resolve().parents[1]
PAGES = {
    "README.md": "index.md",
    **{
        name: name
        for name in (
            "CHANGELOG.md",
            "CODE_OF_CONDUCT.md",
            "CONTRIBUTING.md",
            "MODEL_CARDS.md",
            "SECURITY.md",
        )
    },
}
"""Documents of the root, and their pages."""


def on_files(files: Any, config: Any) -> Any:
    """Add the pages of the root's documents."""
    for name, page in PAGES.items():
        text = (ROOT / name).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=_relink(text, ROOT, config)))
    return files


def on_page_markdown(markdown: str, *, page: Any, config: Any, **_: Any) -> str:
    """Point links that leave docs/ to the pages of the root, or to the repository."""
    if page.file.src_uri in PAGES.values():
        return markdown
    return _relink(markdown, (ROOT / "docs" / page.file.src_uri).parent, config)


def _relink(text: str, folder: Path, config: Any) -> str:
    def target(match: re.Match[str]) -> str:
        name, anchor = match[1], match[2] or ""
        path = (folder / name).resolve()
        if not path.exists() or not path.is_relative_to(ROOT):
            return match[0]  # an address, or a broken link: mkdocs reports it
        inside = path.relative_to(ROOT).as_posix()
        if inside.startswith("docs/") or inside in PAGES:
            page = PAGES.get(inside, inside.removeprefix("docs/"))
            base = folder.relative_to(ROOT / "docs") if folder != ROOT else "."
            return f"]({os.path.relpath(page, base)}{anchor})"
        return f"]({config.repo_url}/blob/main/{inside}{anchor})"

    return re.sub(r"\]\(([^)#:\s]+)(#[^)\s]*)?\)", target, text)


def on_post_page(output: str, *, page: Any, **_: Any) -> str:
    """Load the shim that search needs in a folder from the site, not from a server."""
    return _without_network(output, get_relative_url("assets/iframe-worker.js", page.url))


def on_post_template(output_content: str, **_: Any) -> str:
    """Do the same for the page of error 404, which a server shows."""
    return _without_network(output_content, "assets/iframe-worker.js")


def _without_network(html: str, shim: str) -> str:
    # The script of the second would ask GitHub for stars and releases.
    html = html.replace("https://unpkg.com/iframe-worker/shim", shim)
    return html.replace(' data-md-component="source"', "")
