"""The explorer: spaces, places on the map, what the page holds, and who may read it."""

import base64
import importlib.util
import io
import json
import re
import socket
import threading
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import image_folder, make_image
from PIL import Image
from small_models import make_model, reference

from cassle_zoo.common.errors import (
    ConfigError,
    DataError,
    MissingDependencyError,
    UnknownNameError,
)
from cassle_zoo.common.images import open_image, open_reduced
from cassle_zoo.common.templates import encode_thumbnail
from cassle_zoo.features.explorer import page, spaces
from cassle_zoo.features.explorer.layouts import place
from cassle_zoo.features.explorer.page import explore, explorer_page
from cassle_zoo.features.explorer.server import PageServer
from cassle_zoo.features.explorer.spaces import Space, agreement, feature_space
from cassle_zoo.features.extract import extract_features
from cassle_zoo.features.inputs import expand_inputs
from cassle_zoo.features.nearest import nearest_neighbours
from cassle_zoo.projector import ConditionedProjector, ProjectorConfig

EVIL = "\"><script>alert('x')<!--&amp;\u202eشكر\udce9.png"
TINY = encode_thumbnail(Image.new("RGB", (4, 4), "red"), 64, 1000)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def space_of(vectors: torch.Tensor) -> Space:
    return Space(name="s", about="a", vectors=vectors, raw=vectors)


def held(html: str, name: str = "data") -> Any:
    found = re.search(rf'<script type="application/json" id="{name}">(.*?)</script>', html)
    assert found
    return json.loads(found[1])


def test_agreement_counts_the_nearest_most() -> None:
    first = torch.tensor([[1, 2, 3]] * 4)
    second = torch.tensor([[1, 2, 3], [4, 5, 6], [1, 5, 6], [4, 5, 1]])
    expected = [1, 0, (1 + 1 / 2 + 1 / 3) / 3, (1 / 3) / 3]
    assert agreement(first, second).tolist() == pytest.approx(expected)


def test_agreement_of_long_rankings_fits_into_memory() -> None:
    first = torch.arange(300_000).expand(5, -1)
    assert agreement(first, first).tolist() == [1] * 5
    assert (agreement(first, first.flip(1)) < 0.5).all()


def test_features_are_whitened_and_say_so() -> None:
    features = noise(90, 40) * torch.linspace(1, 30, 40)
    space = feature_space("M", features)
    assert space.vectors.shape == (90, 30)
    assert space.about == "whitened to 30 principal components, fitted to the images shown"
    assert space.title == "M, whitened"
    assert torch.allclose(torch.cov(space.vectors.T), torch.eye(30), atol=1e-3)
    assert space.raw is features


@pytest.mark.parametrize(
    ("features", "why"),
    [
        (noise(23, 80), "23 images of 80 features are too few"),
        (torch.ones(30, 8), "vary in 0 directions"),
        (noise(2, 8).repeat(15, 1), "vary in 1 directions"),
    ],
)
def test_features_that_cannot_be_whitened_stay_raw_and_say_so(
    features: torch.Tensor, why: str
) -> None:
    space = feature_space("M", features)
    assert space.vectors is features
    assert space.about.startswith("raw, as ")
    assert why in space.about
    assert space.title == "M"


@pytest.mark.parametrize("shape", [(300, 20), (110, 500)])  # more rows, more columns
def test_pca_places_by_the_largest_variance(shape: tuple[int, int]) -> None:
    vectors = noise(*shape) * 0.01
    vectors[:, 3] += torch.linspace(-50, 50, shape[0])
    points, how = place(space_of(vectors))
    order = points[:, 0].argsort().tolist()
    assert order in (list(range(shape[0])), list(range(shape[0]))[::-1])
    assert points.min() == 0
    assert points.max() == 1
    assert how == "two principal components (100 % of the variance)"


def test_few_images_stand_in_a_grid_without_overlap() -> None:
    points, how = place(space_of(noise(30, 8)))
    assert how.startswith("grid")
    assert len(set(map(tuple, points.tolist()))) == 30
    assert len(points[:, 1].unique()) == 5
    crowded, _ = place(space_of(torch.ones(500, 8)), "grid")
    assert len(set(map(tuple, crowded.tolist()))) == 500


@pytest.mark.parametrize("vectors", [torch.ones(2, 3), torch.ones(200, 3), noise(200, 1)])
@pytest.mark.parametrize("layout", ["auto", "pca", "grid"])
def test_any_vectors_have_places(vectors: torch.Tensor, layout: str) -> None:
    points, _ = place(space_of(vectors), layout)
    assert points.shape == (len(vectors), 2)
    assert bool(((points >= 0) & (points <= 1)).all())


@pytest.mark.slow
def test_umap_keeps_clusters_together() -> None:
    pytest.importorskip("umap")
    centres = torch.eye(2, 16) * 50
    points, how = place(space_of(noise(60, 16) + centres.repeat_interleave(30, 0)), "umap")
    assert how == "UMAP"
    halves = points[:30].mean(0), points[30:].mean(0)
    assert torch.dist(*halves) > 2 * (points[:30] - halves[0]).norm(dim=1).mean()
    with pytest.raises(DataError, match="at least 4 images, got 3"):
        place(space_of(noise(3, 4)), "umap")


def test_layouts_that_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnknownNameError, match=r"'pcs'.*'pca'"):
        place(space_of(noise(3, 4)), "pcs")

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"cassle-zoo\[umap\]"):
        place(space_of(noise(9, 4)), "umap")


@pytest.mark.parametrize("size", [(300, 200), (20_000, 3), (3, 900), (10, 10)])
def test_thumbnails_are_small(size: tuple[int, int]) -> None:
    content = base64.b64decode(encode_thumbnail(make_image(size=size), 96, 3000))
    assert len(content) <= 3000
    with Image.open(io.BytesIO(content)) as small:
        assert small.format == "WEBP"
        assert max(small.size) == min(96, max(size))
        assert min(small.size) >= 1


def test_the_page_says_who_is_near_whom() -> None:
    first, second = noise(50, 8), noise(50, 6, seed=1)
    sources = [f"/data/{'a/x' if i % 2 else 'b'}/{i}.png" for i in range(50)]
    html = explorer_page("T", sources, [TINY] * 50, [space_of(first), space_of(second)])
    data = held(html)
    cosines, indices = nearest_neighbours(first, first, 12, exclude_self=True)
    assert data["spaces"][0]["neighbours"] == indices.flatten().tolist()
    assert data["spaces"][0]["cosines"] == (cosines * 1000).round().int().flatten().tolist()
    assert data["k"] == 12
    assert data["names"][:2] == ["0.png", "1.png"]
    assert [data["folders"][i] for i in data["folder"][:2]] == ["b", "a/x"]
    assert re.findall(r'<option value="(.*?)">', html) == ["", "a", "a/x", "b", "", "differ"]
    _, others = nearest_neighbours(second, second, 12, exclude_self=True)
    expected = (agreement(indices, others) * 1000).round().int().tolist()
    assert data["agreement"] == expected


def test_one_space_has_no_choices() -> None:
    html = explorer_page("T", ["a.png", "b.png"], [TINY] * 2, [space_of(noise(2, 3))])
    assert held(html)["k"] == 1
    assert 'id="order"' not in html
    assert "<select" not in html
    assert '<fieldset id="spaces" hidden>' in html


def test_names_are_escaped() -> None:
    sources = [f"{EVIL}/x/{EVIL}", f"{EVIL}/y/<\\script>{EVIL}", "{{ title }}"]
    own = Space(name=EVIL, about=EVIL, vectors=noise(3, 4), raw=noise(3, 4))
    html = explorer_page(EVIL, sources, [TINY] * 3, [own])
    html.encode("utf-8")
    assert html.count("<script") == html.count("</script") == 3  # two of data, and the page's
    assert "alert('x')" not in re.sub(r"&#\d+;|&\w+;", "", html)
    assert held(html)["names"] == [EVIL, f"<\\script>{EVIL}", "{{ title }}"]
    assert held(html)["folders"] == ["", f"{EVIL}/x", f"{EVIL}/y"]
    assert not re.search(r"https?:|//[a-z]+\.[a-z]|url\(|@import", html)


def test_two_thousand_images_take_less_than_ten_megabytes() -> None:
    worst = encode_thumbnail(make_image(size=(300, 300)), 96, 6_000_000 // 2000)
    own = [space_of(noise(2000, 16)), space_of(noise(2000, 16, seed=1))]
    names = [f"/folder/of a set/{i:08d} with a name of some length.jpg" for i in range(2000)]
    html = explorer_page("T", names, [worst] * 2000, own)
    assert len(html.encode()) < 10_000_000


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = image_folder(tmp_path / "images", ["a/1.png", "a/2.png", "b/3.png"])
    for path, colour in zip(sorted(folder.rglob("*.png")), ("red", "blue", "white"), strict=True):
        image = Image.blend(open_image(path), Image.new("RGB", (28, 20), colour), 0.7)
        image.save(path)
    return folder


def test_explore_compares_two_models(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (images / "broken.png").write_text("no image")
    opened: list[str] = []

    def counted(source: Any, *options: Any, **others: Any) -> tuple[Image.Image, tuple[int, int]]:
        opened.append(str(source))
        return open_reduced(source, *options, **others)

    monkeypatch.setattr("cassle_zoo.common.images.open_reduced", counted)
    models = [make_model().eval(), make_model("test_vit").eval()]
    found = explore(str(images), models)
    assert len(opened) == len(set(opened)) == 4
    assert found.images == 3
    assert [Path(skip.source).name for skip in found.skipped] == ["broken.png"]
    assert found.spaces == ["Features of ResNet", "Features of VisionTransformer"]
    data = held(found.page)
    files = [open_image(path) for path in sorted(images.rglob("[0-9].png"))]
    for own, model in zip(data["spaces"], models, strict=True):
        features = reference(model, files)
        cosines, expected = nearest_neighbours(features, features, 2, exclude_self=True)
        assert own["neighbours"] == expected.flatten().tolist()
        assert own["cosines"] == pytest.approx((1000 * cosines).flatten().tolist(), abs=1)
        assert "3 images of " in own["about"]
    shown = held(found.page, "images")
    for content, image in zip(shown, files, strict=True):
        with Image.open(io.BytesIO(base64.b64decode(content))) as decoded:
            assert decoded.size == image.size


def test_explore_compares_features_and_projections(
    images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = ProjectorConfig(in_features=512, out_features=8, encoder_depth=2)
    projector = ConditionedProjector(config).eval()
    monkeypatch.setattr(
        "cassle_zoo.zoo.create.create_projector", lambda *_, **__: projector, raising=True
    )
    found = explore(images, "resnet18_cassle_simclr.emoji64")
    assert found.spaces == [
        "Features of resnet18_cassle_simclr.emoji64",
        "Projections by resnet18_cassle_simclr.emoji64",
    ]
    first, second = held(found.page)["spaces"]
    assert first["about"].startswith("what augmentation changes (crop, colour, blur) counts; ")
    assert second["about"] == "what augmentation changes (crop, colour, blur) counts for less"


def test_models_of_timm_are_explored_by_their_features(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cassle_zoo.zoo.create.create_model", lambda *_, **__: make_model().eval())
    [extractor] = spaces.open_extractors(["timm:test_resnet"])
    assert extractor.outputs == ("pooled",)


def test_explore_refuses_what_it_cannot_show(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model()
    cases: list[tuple[list[Any], str]] = [
        ([], "got 0"),
        ([model] * 2, "are ResNet"),
        ([model, "", "b"], "got 3"),
    ]
    for models, wrong in cases:
        with pytest.raises(ConfigError, match=wrong):
            explore(images, models)
    with pytest.raises(ConfigError, match="two models are x1"):
        explore(images, [f"x{i}" for i in (1, 1)])
    with pytest.raises(ConfigError, match="neighbours=0"):
        explore(images, model, neighbours=0)
    with pytest.raises(DataError, match="at least two images"):
        explore(images / "a" / "1.png", model)
    with pytest.raises(UnknownNameError, match="resnet18_casle"):
        explore(images, "resnet18_casle_simclr")
    monkeypatch.setattr(page, "MOST_IMAGES", 2)
    with pytest.raises(DataError, match="3 images are too many"):
        explore(images, model)


def test_images_beyond_the_limit_of_the_model_are_left_out(
    images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extractor = spaces.open_extractors([make_model()])[0]
    original = extractor.transform

    def transform(image: Image.Image) -> torch.Tensor:
        if image.width == 7:
            raise Image.DecompressionBombError("too large.")
        return original(image)  # type: ignore[operator]

    extractor.transform = transform
    make_image(size=(7, 9)).save(images / "seven.png")
    inputs, _ = expand_inputs(images)
    read = spaces.read_images([extractor], inputs)
    assert [(Path(s.source).name, s.reason) for s in read.skipped] == [("seven.png", "too large")]
    assert len(read.sources) == len(read.outputs[0]["pooled"]) == 3


def test_large_photos_are_decoded_as_for_features(tmp_path: Path) -> None:
    for i in range(2):
        make_image(i, size=(900, 700)).save(tmp_path / f"{i}.jpg", quality=95)
    model = make_model().eval()
    inputs, _ = expand_inputs(tmp_path)
    read = spaces.read_images(spaces.open_extractors([model]), inputs, thumbnail=(96, 6000))
    assert read.outputs[0]["pooled"].equal(extract_features(model, tmp_path).features)
    with Image.open(io.BytesIO(base64.b64decode(read.thumbnails[0]))) as small:
        assert small.size == (96, 75)


@pytest.fixture
def address() -> Iterator[tuple[str, int]]:
    with PageServer() as server:
        server.page = "<p>ω</p>"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[0], server.server_port  # type: ignore[misc]
        server.shutdown()
        thread.join()


def ask(port: int, path: str, host: str) -> tuple[int, bytes]:
    connection = HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", path, headers={"Host": host})
    answer = connection.getresponse()
    return answer.status, answer.read()


def test_a_browser_that_goes_away_leaves_no_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    with PageServer() as server:
        server.page = "x" * 50_000_000
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        with socket.create_connection(("127.0.0.1", server.server_port), timeout=10) as browser:
            browser.sendall(b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n")
            assert browser.recv(1)
        for answering in threading.enumerate():
            if "process_request" in answering.name:
                answering.join(10)
        server.shutdown()
        thread.join()
    assert capsys.readouterr().err == ""


def test_only_local_addresses_are_answered(address: tuple[str, int]) -> None:
    host, port = address
    assert host == "127.0.0.1"
    for local in (f"127.0.0.1:{port}", "localhost", f"localhost:{port}"):
        assert ask(port, "/", local) == (200, "<p>ω</p>".encode())
    assert ask(port, "/?x#y", "localhost")[0] == 200
    assert ask(port, "/etc/passwd", "localhost")[0] == 404
    for other in ("evil.example", f"localhost.evil.example:{port}", ""):
        assert ask(port, "/", other)[0] == 421
    for wrong in (port, 70_000, -1):
        with pytest.raises(ConfigError, match=f"port {wrong} cannot be used"):
            PageServer(wrong)
