"""The documentation's site."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import cassle_zoo

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make site` does; a broken link or an unknown object fails."""
    pytest.importorskip("mkdocs")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
def test_every_page_is_in_the_navigation(site: Path) -> None:
    home = (site / "index.html").read_text("utf-8")
    pages = {path.relative_to(site).as_posix() for path in site.rglob("*.html")} - {"404.html"}
    linked = {target for target in re.findall(r'href="(?:\./)?([\w/.-]+\.html)', home)}
    assert pages <= linked


@pytest.mark.slow
def test_pages_load_nothing_from_elsewhere(site: Path) -> None:
    for path in site.rglob("*.html"):
        text = path.read_text("utf-8")
        loaded = re.findall(r'<(?:script|img|iframe)[^>]* src="([^"]+)"', text)
        loaded += re.findall(r'<link[^>]* rel="stylesheet"[^>]* href="([^"]+)"', text)
        assert not [address for address in loaded if address.startswith(("http", "//"))], path
        assert 'data-md-component="source"' not in text  # asks GitHub for stars


@pytest.mark.slow
def test_search_works_from_a_folder(site: Path) -> None:
    index = (site / "search" / "search_index.js").read_text("utf-8")
    assert "create_model" in index


def test_the_reference_has_every_public_name() -> None:
    text = (ROOT / "docs" / "reference.md").read_text("utf-8")
    shown = [name.rpartition(".")[2] for name in re.findall(r"^::: (\S+)$", text, re.MULTILINE)]
    assert sorted(shown) == sorted(set(cassle_zoo.__all__) - {"__version__"})  # each once


@pytest.mark.slow
def test_the_reference_shows_what_users_call(site: Path) -> None:
    text = (site / "reference.html").read_text("utf-8")
    shown = re.findall(r'<h[3-5] id="(cassle_zoo[\w.]+)"', text)
    assert len(shown) == len(set(shown))
    private = {name for name in shown if name.rpartition(".")[2].startswith("_")}
    assert private == {f"{name}.__call__" for name in shown if f"{name}.__call__" in shown}
    plain = re.sub(r"<[^>]+>", "", text)
    assert "Annotated[" not in plain
    assert not re.findall(r":(?:func|class|meth|data|attr):", plain)
    assert "&gt;&gt;&gt; " in plain  # examples
