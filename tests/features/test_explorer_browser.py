"""The explorer in a real browser: clicks, keys, filters, sizes and colours."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import make_image
from chromium import BROWSER, NAMES, Chromium

from cassle_zoo.common.templates import encode_thumbnail
from cassle_zoo.features.explorer.page import explorer_page
from cassle_zoo.features.explorer.spaces import Space

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason=f"no browser: none of {', '.join(NAMES)}"),
]

COUNT = 150
EVIL = "\"><img src=x onerror=alert(1)><script>alert('x')<!--\u202eشكر.png"
HEADING = "document.querySelector('#panel h2').textContent"
STATUS = "document.querySelector('[role=status]').textContent"
SHOWN = "[...document.querySelectorAll('#all li')].map(item => item.textContent)"
WIDE = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


def found(column: int) -> str:
    """Names in one of the two lists of neighbours."""
    return (
        f"[...document.querySelectorAll('.found > div')[{column}].querySelectorAll('li span')]"
        ".map(item => item.textContent)"
    )


def middle(selector: str) -> str:
    return (
        f"(() => {{ const box = document.querySelector('{selector}').getBoundingClientRect();"
        "return [box.x + box.width / 2, box.y + box.height / 2]; })()"
    )


@pytest.fixture(scope="module")
def spaces() -> list[Space]:
    """The images stand on a line; in the second space every other one is far away."""
    line = torch.linspace(0, 1.5, COUNT)
    first = torch.stack([line.cos(), line.sin()], 1)
    second = torch.cat([first, 3 * (torch.arange(COUNT) % 2)[:, None].float()], 1)
    return [Space(name=n, about="x", vectors=v, raw=v) for n, v in (("A", first), ("B", second))]


@pytest.fixture(scope="module")
def path(spaces: list[Space], tmp_path_factory: pytest.TempPathFactory) -> Path:
    names = [f"/x/{'even' if i % 2 == 0 else 'odd/deep'}/{i:03d}.png" for i in range(COUNT)]
    names[7] = f"/x/odd/deep/{EVIL}"
    thumbnails = [encode_thumbnail(make_image(i), 96, 3000) for i in range(COUNT)]
    path = tmp_path_factory.mktemp("explorer") / "page.html"
    html = explorer_page("Title <b>", names, thumbnails, spaces, neighbours=4)
    path.write_text(html, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    with Chromium(tmp_path_factory.mktemp("browser")) as chromium:
        yield chromium


@pytest.fixture
def at(browser: Chromium, path: Path) -> Iterator[Chromium]:
    browser.resize(1280)
    browser.prefer(prefers_color_scheme="light", prefers_reduced_motion="reduce")
    browser.open(path)
    yield browser
    assert not browser.problems()
    assert {url.partition(":")[0] for url in browser.requests()} <= {"file", "data", "about"}


def place_of(at: Chromium, index: int) -> Any:
    """Coordinates of an image on the screen."""
    return at.run(
        "(() => { const box = canvas.getBoundingClientRect(); return ["
        f"box.x + screenX(points[{2 * index}]), box.y + screenY(points[{2 * index + 1}])]; }})()"
    )


def test_a_click_on_the_map_shows_neighbours_in_both_spaces(at: Chromium) -> None:
    assert at.run(HEADING) == "000.png"
    at.click(*place_of(at, 40))
    assert at.run(HEADING) == "040.png"
    assert set(at.run(found(0))) == {"038.png", "039.png", "041.png", "042.png"}
    assert set(at.run(found(1))) == {"036.png", "038.png", "042.png", "044.png"}
    only = at.run("[...document.querySelectorAll('.only')].map(item => item.ariaLabel)")
    assert len(only) == 4
    assert all(text.endswith(", only found here") for text in only)
    assert at.run(STATUS) == "even/040.png chosen. 2 of 4 neighbours in common."
    assert at.run("location.hash") == "#image=40"


def test_a_click_on_a_neighbour_chooses_it(at: Chromium) -> None:
    at.click(*at.run(middle(".found li button")))
    assert at.run(HEADING) == "001.png"
    assert at.run("document.activeElement.id") == "panel"


def test_dragging_moves_the_map_and_chooses_nothing(at: Chromium) -> None:
    x, y = at.run(middle("canvas"))
    before = at.run("view.x")
    for kind, dx in [("mousePressed", 0), ("mouseMoved", 60), ("mouseReleased", 60)]:
        at.send("Input.dispatchMouseEvent", type=kind, x=x + dx, y=y, button="left", clickCount=1)
    assert at.run("view.x") < before
    assert at.run(HEADING) == "000.png"


def test_keys_go_over_the_map(at: Chromium) -> None:
    at.run("canvas.focus()")
    at.press("ArrowRight")
    start = at.run("cursor")
    for direction, axis in (("ArrowRight", 0), ("ArrowDown", 1)):
        before = at.run(f"points[2 * cursor + {axis}]")
        at.press(direction)
        after = at.run(f"points[2 * cursor + {axis}]")
        assert after > before or "No image" in at.run(STATUS)
    assert at.run("cursor") != start
    expected = at.run("names[cursor]")
    assert expected in at.run("fullName(cursor)")
    at.press("Enter")
    assert at.run(HEADING) == expected
    at.press("+")
    assert at.run("view.zoom") == 1.5
    at.press("0")
    assert at.run("view.zoom") == 1


def test_keys_go_through_the_list(at: Chromium) -> None:
    assert at.run("document.querySelectorAll('#all li [tabindex=\"0\"]').length") == 1
    at.run("document.querySelector('#all li button').focus()")
    at.press("ArrowRight")
    at.press("ArrowDown")
    columns = at.run("getComputedStyle(list).gridTemplateColumns.split(' ').length")
    assert at.run("document.activeElement.textContent") == f"{1 + columns:03d}.png"
    at.press("Enter")
    assert at.run(HEADING) == f"{1 + columns:03d}.png"
    assert at.run("document.querySelectorAll('#all [aria-current]').length") == 1
    at.press("End")
    assert at.run("document.activeElement.textContent") == "149.png"
    assert at.run("document.activeElement.parentNode.ariaSetSize") == "150"


def test_everything_that_can_be_done_has_a_name(at: Chromium) -> None:
    tree = at.send("Accessibility.getFullAXTree")["nodes"]
    roles = {"button", "radio", "searchbox", "combobox", "Canvas", "application", "image"}
    nodes = [n for n in tree if not n["ignored"] and n.get("role", {}).get("value") in roles]
    assert len(nodes) > 50
    unnamed = [n for n in nodes if not n.get("name", {}).get("value")]
    assert not unnamed
    assert any(n["role"]["value"] == "application" for n in nodes)


def test_filters(at: Chromium, path: Path) -> None:
    typed = "form.text.value = '{}'; form.text.dispatchEvent(new Event('input', {{bubbles: true}}))"
    at.run(typed.format("DEEP 14"))
    assert at.run(SHOWN) == ["141.png", "143.png", "145.png", "147.png", "149.png"]
    assert at.run("form.querySelector('output').textContent") == "5 of 150"
    at.run(typed.format("nothing"))
    assert at.run(SHOWN) == []
    at.open(path, "#kind=even&text=00&image=3")
    assert at.run(SHOWN) == [f"{i:03d}.png" for i in (0, 2, 4, 6, 8, 100)]
    assert at.run(HEADING) == "003.png"
    at.click(*place_of(at, 5))  # it is filtered out
    assert at.run(HEADING) != "005.png"
    at.open(path, "#kind=odd")
    assert len(at.run(SHOWN)) == 75  # those in folders below it, too


def test_order_by_difference(at: Chromium) -> None:
    at.run("$('#order').value = 'differ'; $('#order').dispatchEvent(new Event('change'))")
    order = at.run("shown.map(i => data.agreement[i])")
    assert order == sorted(order)
    assert order[0] < order[-1]


def test_the_list_is_whole_after_a_change_of_order(at: Chromium) -> None:
    at.run("scrollTo(0, 1e6)")
    at.wait("list.children.length === 150")
    at.run("$('#order').value = 'differ'; $('#order').dispatchEvent(new Event('change'))")
    at.wait("list.children.length === 150")  # its end was in sight all the time


def test_the_map_of_the_other_space(at: Chromium) -> None:
    before = at.run("[...points]")
    at.run("document.querySelectorAll('[name=space]')[1].click()")
    at.wait("points[3] === spaces[1].points[3]")
    assert at.run("[...points]") != before
    assert at.run("$('#how').textContent").startswith("Map: two principal components")


def test_thumbnails_are_decoded_where_they_are_seen(at: Chromium) -> None:
    at.resize(1280, 700)
    assert at.run("[...list.querySelectorAll('img')].filter(i => i.src).length") < 120
    at.run("scrollTo(0, 1e6)")
    at.wait("list.children.length === 150 && list.lastChild.querySelector('img').complete")
    at.wait("list.lastChild.querySelector('img').naturalWidth > 0")
    at.wait("bitmaps.filter(Boolean).length === 150")


def test_names_are_texts(at: Chromium) -> None:
    at.run("choose(7)")
    assert at.run(HEADING) == EVIL
    assert at.run("document.querySelectorAll('script').length") == 3
    assert at.run("document.querySelectorAll('img:not([data-image])').length") == 0
    assert at.run("document.title") == "Title <b>"


@pytest.mark.parametrize("width", [320, 390, 1280])
def test_nothing_is_wider_than_the_window(at: Chromium, width: int) -> None:
    at.resize(width, phone=width < 500)
    at.run("choose(7)")
    assert at.run(WIDE) == 0
    small = "[...document.querySelectorAll('button')].filter(b => b.getBoundingClientRect()"
    assert at.run(f"{small}.height < 24 || b.getBoundingClientRect().width < 24).length") == 0


def test_dark_and_without_motion(at: Chromium) -> None:
    background = "getComputedStyle(document.body).backgroundColor"
    light = at.run(background)
    at.prefer(prefers_color_scheme="dark", prefers_reduced_motion="reduce")
    assert at.run(background) != light
    moves = at.run(
        "new Promise(done => { setSpace(1); requestAnimationFrame(() => requestAnimationFrame("
        "() => done(points[3] === spaces[1].points[3]))); })"
    )
    assert moves
