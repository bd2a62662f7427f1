"""Hooks of mkdocs: what is outside docs/ and should be read becomes pages, and links follow.

These are documents of the repository's root, and the examples.
"""

import json
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
    "examples/README.md": "examples/index.md",
    **{
        f"examples/{path.name}": f"examples/{path.stem}.md"
        for path in sorted((ROOT / "examples").iterdir())
        if path.suffix in (".ipynb", ".py") or path.name == "finetune_with_timm.md"
    },
}
"""Files outside docs/, and their pages."""


def on_files(files: Any, config: Any) -> Any:
    """Add the pages of what is outside docs/."""
    for name, page in PAGES.items():
        path = ROOT / name
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".py":
            text = _script_page(path, text)
        elif path.suffix == ".ipynb":
            text = _notebook_page(json.loads(text))
            text = text.replace("\n", f"\n\n[{path.name}]({path.name}#source)\n", 1)
        content = _relink(text, path.parent, config, page)
        files.append(File.generated(config, page, content=content))
    return files


def _script_page(path: Path, text: str) -> str:
    _, heading, code = text.split('"""', 2)
    title, _, about = heading.partition("\n\n")
    return (
        f"# {title.removesuffix('.')}\n\n[{path.name}]({path.name}#source)\n\n"
        f"```text\n{about.strip()}\n```\n\n```python\n{code.strip()}\n```\n"
    )


def _notebook_page(notebook: dict[str, Any]) -> str:
    parts = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "image/png" in data:
                image = "".join(data["image/png"]).replace("\n", "")
                parts.append(
                    f'<img alt="Output of the cell above" src="data:image/png;base64,{image}">'
                )
            elif said := output.get("text", data.get("text/plain")):
                parts.append(f"```text\n{''.join(said).rstrip()}\n```")
    return "\n\n".join(parts)


def on_page_markdown(markdown: str, *, page: Any, config: Any, **_: Any) -> str:
    """Point links that leave docs/ to the pages of the root, or to the repository."""
    if page.file.src_uri in PAGES.values():
        return markdown
    folder = (ROOT / "docs" / page.file.src_uri).parent
    return _relink(markdown, folder, config, page.file.src_uri)


def _relink(text: str, folder: Path, config: Any, page: str) -> str:
    """Let the links of a text point from its page; `#source` is the file in the repository.

    An image becomes a link to itself, as on GitHub: on a phone it is too small to read.
    """
    text = re.sub(r"^(!\[[^\]]*\]\(([^)\s]+)\))$", r"[\1](\2)", text, flags=re.MULTILINE)

    def target(match: re.Match[str]) -> str:
        name, anchor = match[1], match[2] or ""
        path = (folder / name).resolve()
        if not path.exists() or not path.is_relative_to(ROOT):
            return match[0]  # an address, or a broken link: mkdocs reports it
        inside = path.relative_to(ROOT).as_posix()
        if inside.startswith("docs/") or (inside in PAGES and anchor != "#source"):
            found = PAGES.get(inside, inside.removeprefix("docs/"))
            return f"]({os.path.relpath(found, Path(page).parent)}{anchor})"
        anchor = anchor.removesuffix("#source")
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
