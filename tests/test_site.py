"""The documentation's site."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from chromium import BROWSER, Chromium

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


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    if BROWSER is None:
        pytest.skip("needs Chromium")
    with Chromium(tmp_path_factory.mktemp("browser")) as opened:
        yield opened


@pytest.mark.slow
def test_typing_finds_a_page_without_a_server(site: Path, browser: Chromium) -> None:
    browser.resize(1440)
    browser.open(site / "index.html")
    browser.wait("document.querySelector('iframe') !== null")  # in which the search runs
    box = "document.querySelector('.md-search__input').getBoundingClientRect()"
    browser.click(browser.run(f"{box}.x + 20"), browser.run(f"{box}.y + 10"))
    for letter in "whitening":
        browser.press(letter)
    found = "[...document.querySelectorAll('.md-search-result__item a')].map(a => a.href).join()"
    browser.wait(f"({found}).includes('concepts/whitening.html')")
    assert not browser.problems()


@pytest.mark.slow
def test_pages_fit_a_phone_and_ask_nothing_of_the_network(site: Path, browser: Chromium) -> None:
    browser.resize(390, 844, phone=True)
    for path in sorted(site.rglob("*.html")):
        if path.name == "404.html":  # made for a server's root
            continue
        browser.open(path)
        assert browser.run("document.documentElement.scrollWidth") <= 390, path.name
        broken = "[...document.images].filter(i => i.complete && !i.naturalWidth).length"
        assert browser.run(broken) == 0, path.name
        unlinked = "[...document.images].filter(i => i.src.startsWith('file') && !i.closest('a'))"
        assert browser.run(f"{unlinked}.length") == 0, path.name
        asked = [url for url in browser.requests() if url.startswith("http")]
        assert not asked, path.name


@pytest.mark.slow
def test_figures_lie_on_white_where_the_page_is_dark(site: Path, browser: Chromium) -> None:
    browser.prefer(prefers_color_scheme="dark")
    browser.open(site / "concepts" / "omega.html")
    browser.wait("document.body.dataset.mdColorScheme === 'slate'")
    figure = "getComputedStyle(document.querySelector('article img')).backgroundColor"
    assert browser.run(figure) == "rgb(255, 255, 255)"
    browser.prefer(prefers_color_scheme="light")
    browser.wait("document.body.dataset.mdColorScheme === 'default'")


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
