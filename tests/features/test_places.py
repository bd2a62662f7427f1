"""Everything on disk or elsewhere that a path may name."""

import errno
import io
import json
import os
import resource
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch
from builders import encoded, image_folder, make_image, write_tar
from PIL import Image
from small_models import make_model, reference
from start_methods import FORKS

from cassle_zoo.cli.main import main
from cassle_zoo.common import images as common_images
from cassle_zoo.common.errors import ConfigError, DataError, MissingDependencyError
from cassle_zoo.features.explorer.page import explore
from cassle_zoo.features.extract import extract_features
from cassle_zoo.features.inputs import Inputs, Skipped, expand_inputs
from cassle_zoo.features.places import is_address

NAMES = ("a.png", "b.jpg", "sub/c.png")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    image_folder(tmp_path / "images", NAMES)
    (tmp_path / "images" / "notes.txt").write_text("no image\nat all")
    return tmp_path


def names_of(inputs: Inputs, root: Path) -> list[str]:
    return [Path(image.source).relative_to(root).as_posix() for image in inputs]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("images/*.png", ["a.png"]),
        ("images/**", list(NAMES)),
        ("images/**/*", list(NAMES)),
        ("images/*", list(NAMES)),
        ("images/[bc].*", ["b.jpg"]),
        ("images/**/?.png", ["a.png", "sub/c.png"]),
    ],
)
def test_patterns(root: Path, pattern: str, expected: list[str]) -> None:
    inputs, skipped = expand_inputs(str(root / pattern))
    assert names_of(inputs, root / "images") == expected
    assert not skipped


@pytest.mark.parametrize("pattern", ["**/*.png", "images/**/*.png", "**/**/*.png", "im*/**"])
def test_patterns_enter_every_folder_once(
    root: Path, pattern: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)
    (root / "images" / "sub" / "up").symlink_to("..")
    (root / "images" / "up").symlink_to("..")
    (root / "images" / "b.jpg").unlink()
    expected = ["images/a.png", "images/sub/c.png"]
    assert [image.source for image in expand_inputs(pattern)[0]] == expected


def test_a_pattern_without_matches(root: Path) -> None:
    with pytest.raises(DataError, match=r"no image matches.*\*\.gif"):
        expand_inputs(str(root / "*.gif"))


def test_a_file_whose_name_looks_like_a_pattern(tmp_path: Path) -> None:
    image_folder(tmp_path, ["[1]*.png", "1.png"])
    inputs, _ = expand_inputs(str(tmp_path / "[1]*.png"))
    assert names_of(inputs, tmp_path) == ["[1]*.png"]


LISTS: dict[str, tuple[str, bytes]] = {
    "lines": ("l.txt", b"images/a.png\n\nimages/b.jpg\r\nimages/gone.png"),
    "mark of UTF-8": ("l.txt", b"\xef\xbb\xbfimages/a.png\r\nimages/b.jpg\r\nimages/gone.png\r\n"),
    "UTF-16": ("l.txt", "images/a.png\r\nimages/b.jpg\r\nimages/gone.png\r\n".encode("utf-16")),
    "zero bytes": ("l.lst", b"images/a.png\0images/b.jpg\0images/gone.png\0"),
    "one column": ("l.csv", b"images/a.png\nimages/b.jpg\nimages/gone.png\n"),
    "columns": ("l.csv", b"id,Path\n1,images/a.png\n2,images/b.jpg\n3,images/gone.png\n"),
    "semicolons in UTF-16": (
        "l.csv",
        b"\xfe\xff"
        + "Path;id\r\nimages/a.png;1\r\nimages/b.jpg;2\r\nimages/gone.png;3".encode("utf-16-be"),
    ),
    "tabs of a .csv": (
        "l.csv",
        b"id\tPath\n1\timages/a.png\n2\timages/b.jpg\n3\timages/gone.png\n",
    ),
    "tabs": ("l.tsv", b"\xef\xbb\xbffile\tid\nimages/a.png\t1\nimages/b.jpg\t2\nimages/gone.png\t"),
}


@pytest.mark.parametrize("kind", LISTS)
@pytest.mark.parametrize("here", [True, False])
def test_lists(root: Path, kind: str, here: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    name, content = LISTS[kind]
    (root / name).write_bytes(content)
    if here:
        monkeypatch.chdir(root)
    inputs, skipped = expand_inputs(root / name)
    assert len(inputs) == 3
    found = extract_features(make_model(), root / name)
    assert [Path(source).name for source in found.sources] == ["a.png", "b.jpg"]
    assert [skip.reason for skip in found.skipped] == ["No such file or directory"]
    assert not skipped


def test_columns_of_lists(root: Path) -> None:
    (root / "l.csv").write_text(f"id,photo\n1,{root / 'images' / 'a.png'}\n")
    with pytest.raises(ConfigError, match=r"its columns are id, photo.*--column"):
        expand_inputs(root / "l.csv")
    with pytest.raises(ConfigError, match="no column 'foto'"):
        expand_inputs(root / "l.csv", "foto")
    for given in (root / "l.csv", [root / "images", str(root / "*.csv")]):
        inputs, _ = expand_inputs(given, "photo")
        assert names_of(inputs, root)[-1] == "images/a.png"


@pytest.mark.parametrize(
    "given", ["images", ["images", "images/a.png"], [Image.new("RGB", (8, 8))]]
)
def test_a_column_of_what_has_none_is_refused(
    root: Path, given: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)
    expand_inputs(given)
    with pytest.raises(ConfigError, match=r"column 'photo': none .* leave out --column"):
        expand_inputs(given, "photo")


def test_no_row_of_a_list_is_lost_silently(root: Path) -> None:
    (root / "l.csv").write_text("path,id\nimages/a.png,1\n,2\n, \nimages/b.jpg\n")
    inputs, skipped = expand_inputs(root / "l.csv")
    assert names_of(inputs, root) == ["images/a.png", "images/b.jpg"]
    assert [skip.reason for skip in skipped] == ["1 of 3 rows have no path"]
    (root / "l.tsv").write_text('path\ttitle\nimages/a.png\t"one\nimages/b.jpg\ttwo"s\n')
    with pytest.raises(DataError, match=r"line 3: .*quotes inside it are doubled"):
        expand_inputs(root / "l.tsv")


def test_a_text_is_no_list(root: Path) -> None:
    inputs, skipped = expand_inputs([root / "images" / "notes.txt", make_image()])
    assert len(inputs) == 1
    assert "none of them exists" in skipped[0].reason


def test_standard_input(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    entries = "\0".join(str(root / "images" / name) for name in NAMES)

    class Stdin:
        buffer = io.BytesIO(entries.encode())

    monkeypatch.setattr(sys, "stdin", Stdin)
    out = root / "f.csv"
    assert main(["features", "resnet18_cassle_simclr.emoji64", "-", "-o", str(out)]) == 0
    assert "3 images x 512" in capsys.readouterr().out


@pytest.mark.parametrize("given", ["", [make_image(), ""]])
def test_an_empty_path_is_not_the_current_folder(
    root: Path, given: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)
    with pytest.raises(DataError, match="a path is empty; the current folder is"):
        expand_inputs(given)
    assert len(expand_inputs(".")[0]) == 3


def tar_of(path: Path, first: int = 0) -> Path:
    content = {f"{i:04d}.jpg": encoded(make_image(i), "PNG") for i in (first, first + 1)}
    return write_tar(path, {**content, f"{first:04d}.cls": b"3", "._x.png": b"hidden"})


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("given", ["t-{00..01}.tar", "t-*.tar", ".", "t-00.tar"])
def test_tar_files_and_shards(tmp_path: Path, given: str, workers: int) -> None:
    for shard in (0, 1):
        tar_of(tmp_path / f"t-0{shard}.tar", 2 * shard)
    model = make_model().eval()
    found = extract_features(model, str(tmp_path / given), num_workers=workers, batch_size=3)
    count = 2 if given == "t-00.tar" else 4
    members = [f"t-0{i // 2}.tar/{i:04d}.jpg" for i in range(count)]
    assert found.sources == [str(tmp_path / member) for member in members]
    expected = reference(model, [make_image(i) for i in range(count)])
    torch.testing.assert_close(found.features, expected, atol=1e-5, rtol=1e-5)


def test_links_in_a_tar_are_named(tmp_path: Path) -> None:
    path = tar_of(tmp_path / "t.tar")
    with tarfile.open(path, "a") as tar:
        link = tarfile.TarInfo("copy.jpg")
        link.type, link.linkname = tarfile.LNKTYPE, "0000.jpg"
        tar.addfile(link)
    inputs, skipped = expand_inputs(path)
    assert len(inputs) == 2
    assert [skip.source for skip in skipped] == [str(path)]
    assert "1 of its files are links" in skipped[0].reason


def test_more_shards_than_a_process_may_have_open(tmp_path: Path) -> None:
    content = tar_of(tmp_path / "0.tar").read_bytes()
    for number in range(1, 100):
        (tmp_path / f"{number}.tar").write_bytes(content)
    inputs, _ = expand_inputs(tmp_path / "*.tar")
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = max(map(int, os.listdir("/dev/fd"))) + 80
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, limits[0]), limits[1]))
    try:
        assert len([image.image() for image in inputs]) == 200
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_an_archive_that_is_replaced_while_it_is_read(tmp_path: Path) -> None:
    tar_of(tmp_path / "a.tar")
    inputs, _ = expand_inputs(tmp_path / "a.tar")
    (tmp_path / "a.tar").unlink()
    write_tar(tmp_path / "a.tar", {f"{n}.jpg": encoded(make_image(9), "JPEG") for n in range(3)})
    with pytest.raises(DataError, match=r"a\.tar' was changed while it was read; start again"):
        inputs[1].image()


def test_damaged_and_empty_archives(tmp_path: Path) -> None:
    whole = tar_of(tmp_path / "a.tar").read_bytes()
    (tmp_path / "cut.tar").write_bytes(whole[:2000])
    write_tar(tmp_path / "none.tar", {"a.cls": b"1"})
    (tmp_path / "x.zip").write_bytes(b"PK")
    inputs, skipped = expand_inputs([tmp_path / n for n in ("cut.tar", "none.tar", "x.zip")])
    assert not inputs
    assert [skip.reason.partition(":")[0].partition(" after")[0] for skip in skipped] == [
        f"the archive {str(tmp_path / 'cut.tar')!r} is damaged or cut off",
        "the archive holds no images",
        "an archive",
    ]


@pytest.mark.parametrize("size", [-1024, -512])
def test_a_tar_whose_sizes_are_negative(tmp_path: Path, size: int) -> None:
    header = bytearray(tarfile.TarInfo("a.png").tobuf())
    header[124:136] = size.to_bytes(12, "big", signed=True)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    whole = tarfile.TarInfo("b.png").tobuf()
    (tmp_path / "a.tar").write_bytes(whole + header + bytes(10240))
    inputs, [skipped] = expand_inputs(tmp_path / "a.tar")
    assert not inputs
    assert "damaged or cut off after 1 images, at byte" in skipped.reason
    assert "'a.png' has a negative size" in skipped.reason


@pytest.mark.parametrize("workers", [0, 2])
def test_datasets_on_disk(tmp_path: Path, workers: int) -> None:
    datasets = pytest.importorskip("datasets")
    files = [encoded(make_image(i)) for i in range(3)]
    photos = [*({"bytes": b, "path": None} for b in [*files, b"broken"]), None]
    content = {"photo": photos, "n": range(5)}
    kinds = datasets.Features({"photo": datasets.Image(), "n": datasets.Value("int64")})
    dataset = datasets.Dataset.from_dict({**content, "n": [*content["n"]]}, features=kinds)
    dataset.save_to_disk(tmp_path / "saved")
    model = make_model().eval()
    found = extract_features(model, tmp_path / "saved", num_workers=workers)
    expected = reference(model, [make_image(i) for i in range(3)])
    torch.testing.assert_close(found.features, expected, atol=1e-5, rtol=1e-5)
    assert found.sources[2] == f"{tmp_path / 'saved'}[2]"
    assert [skip.source for skip in found.skipped] == [f"{tmp_path / 'saved'}[{i}]" for i in (3, 4)]
    assert found.skipped[1].reason == "there is no image, the value is None"
    in_memory = extract_features(model, dataset.select([0, 1, 2, 4]))
    assert [skip.source for skip in in_memory.skipped] == ["dataset[3]"]
    torch.testing.assert_close(in_memory.features, found.features)
    with pytest.raises(ConfigError, match=r"no column 'img'; its columns are photo, n"):
        expand_inputs(dataset, "img")
    datasets.DatasetDict(train=dataset, test=dataset).save_to_disk(tmp_path / "splits")
    with pytest.raises(DataError, match=r"several splits.*splits/test', .*splits/train'"):
        expand_inputs(tmp_path / "splits")
    with pytest.raises(ConfigError, match="IterableDataset"):
        expand_inputs(dataset.to_iterable_dataset())


@pytest.fixture
def memory() -> Any:
    place = fsspec.filesystem("memory")
    for i in range(3):
        place.pipe(f"/images/sub/{i}.png", encoded(make_image(i)))
    place.pipe("/images/notes.txt", b"none")
    place.pipe("/images/.hidden/x.png", b"none")
    yield place
    place.rm("/", recursive=True)


@pytest.mark.parametrize(
    ("address", "count"),
    [
        ("memory://images", 3),
        ("memory://images/**/*.png", 3),
        ("memory://images/sub/0.png", 1),
        ("memory://t.tar", 2),
    ],
)
def test_addresses(memory: Any, tmp_path: Path, address: str, count: int) -> None:
    memory.pipe("/t.tar", tar_of(tmp_path / "t.tar").read_bytes())
    model = make_model().eval()
    found = extract_features(model, address)
    assert all(is_address(source) for source in found.sources)
    expected = reference(model, [make_image(i) for i in range(count)])
    torch.testing.assert_close(found.features, expected, atol=1e-5, rtol=1e-5)
    again = extract_features(model, found.sources, num_workers=int(FORKS))
    assert again.sources == found.sources
    assert torch.equal(again.features, found.features)


def test_addresses_that_lead_nowhere(memory: Any) -> None:
    for address in ("memory://gone", "memory://gone.png", "memory://gone.tar"):
        with pytest.raises(DataError, match=r"cannot open 'memory://gone"):
            expand_inputs(address)
    with pytest.raises(DataError, match="Protocol not known"):
        expand_inputs("foo://a")
    memory.pipe("/empty/notes.txt", b"none")
    _, skipped = expand_inputs("memory://empty")
    assert skipped[0].reason == "no images are there"
    found = extract_features(make_model(), [make_image(), "memory://images/sub/1.png"])
    assert len(found) == 2


@pytest.mark.parametrize("pattern", ["images/*", "images/**", ".new/*.png", "images/s?b"])
def test_patterns_at_addresses(memory: Any, pattern: str) -> None:
    for i in range(3):
        memory.pipe(f"/.new/{i}.png", encoded(make_image(i)))
    inputs, skipped = expand_inputs(f"memory://{pattern}")
    assert [image.image().tobytes() for image in inputs] == [
        make_image(i).tobytes() for i in range(3)
    ]
    assert not skipped


@pytest.mark.parametrize("address", ["memory://t-{0..2}.tar", "memory://t-*.tar"])
def test_shards_at_addresses(memory: Any, tmp_path: Path, address: str) -> None:
    for shard in range(3):
        content = tar_of(tmp_path / "t.tar", 2 * shard).read_bytes()
        memory.pipe(f"/t-{shard}.tar", content[: 2000 if shard == 2 else None])
    inputs, skipped = expand_inputs(address)
    assert [image.source.partition("::")[0] for image in inputs] == [
        f"tar://{i:04d}.jpg" for i in range(4)
    ]
    assert [image.image().tobytes() for image in inputs] == [
        make_image(i).tobytes() for i in range(4)
    ]
    assert [skip.source.rpartition("/")[2] for skip in skipped] == ["t-2.tar"]
    assert "is damaged or cut off" in skipped[0].reason


def test_a_tar_at_an_address_is_listed_once(
    memory: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = {f"{i}.png": encoded(make_image(i)) for i in range(3)}
    path = write_tar(tmp_path / "t.tar", {**content, "empty.png": b""})
    memory.pipe("/{t}.tar", path.read_bytes())
    place = type(memory)
    open_file = place._open
    opened: list[str] = []

    def counting(self: Any, path: str, *args: Any, **options: Any) -> Any:
        opened.append(path)
        return open_file(self, path, *args, **options)

    monkeypatch.setattr(place, "_open", counting)
    found = extract_features(make_model(), "memory://{t}.tar")
    assert found.sources == [f"tar://{name}::memory://{{t}}.tar" for name in content]
    assert [skip.source for skip in found.skipped] == ["tar://empty.png::memory://{t}.tar"]
    assert len(opened) == 1


def test_a_server_that_sends_whole_files_only(
    memory: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory.pipe("/t.tar", tar_of(tmp_path / "t.tar").read_bytes())
    place = type(memory)
    cat_file = place.cat_file
    monkeypatch.setattr(place, "cat_file", lambda self, path, **_: cat_file(self, path))
    inputs, skipped = expand_inputs("memory://t.tar")
    assert [image.image().tobytes() for image in inputs] == [
        make_image(i).tobytes() for i in range(2)
    ]
    assert not skipped


@pytest.mark.parametrize("name", ["a [1].png", "a.png?size=large", "b [1]/c.png"])
def test_addresses_that_look_like_patterns(memory: Any, name: str) -> None:
    memory.pipe(f"/odd/{name}", encoded(make_image()))
    inputs, skipped = expand_inputs(f"memory://odd/{name}")
    assert [image.source for image in inputs] == [f"memory://odd/{name}"]
    assert inputs[0].image().size == make_image().size
    assert not skipped


class Refused(Exception):
    """As an HTTP client raises it."""

    def __init__(self, status: int) -> None:
        super().__init__(f"{status}, message=...")
        self.status = status


def of_s3(code: str) -> PermissionError:
    """As s3fs raises it."""
    error, cause = PermissionError("refused"), Exception()
    cause.response = {"Error": {"Code": code}}  # type: ignore[attr-defined]
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "concerns_all"),
    [
        (Refused(403), False),
        (Refused(503), True),
        (of_s3("AccessDenied"), False),
        (of_s3("ExpiredToken"), True),
    ],
)
def test_a_server_that_refuses(
    memory: Any, error: Exception, concerns_all: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = type(memory)
    cat_file = place.cat_file

    def refusing(self: Any, path: str, *args: Any, **options: Any) -> Any:
        if path.endswith("1.png"):
            raise error
        return cat_file(self, path, *args, **options)

    monkeypatch.setattr(place, "cat_file", refusing)
    if concerns_all:
        with pytest.raises(DataError, match=r"cannot read 'memory:.*1\.png': (503|refused)"):
            extract_features(make_model(), "memory://images")
        return
    found = extract_features(make_model(), "memory://images")
    assert len(found) == 2
    assert [Path(skip.source).name for skip in found.skipped] == ["1.png"]


def extracted(folder: Path) -> tuple[int, list[Skipped]]:
    found = extract_features(make_model(), folder)
    return len(found), found.skipped


def explored(folder: Path) -> tuple[int, list[Skipped]]:
    found = explore(folder, make_model())
    return found.images, found.skipped


@pytest.mark.parametrize("read", [extracted, explored])
@pytest.mark.parametrize(("number", "is_lost"), [(errno.ENOTCONN, True), (errno.EIO, False)])
def test_a_drive_that_is_lost_ends_the_extraction(
    root: Path,
    number: int,
    is_lost: bool,
    read: Callable[[Path], tuple[int, list[Skipped]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    check = common_images.check_regular_file

    def failing(path: Any) -> None:
        if os.fspath(path).endswith("b.jpg"):
            raise OSError(number, os.strerror(number))
        check(path)

    monkeypatch.setattr(common_images, "check_regular_file", failing)
    if is_lost:
        with pytest.raises(DataError, match=rf"cannot read '.*b\.jpg': {os.strerror(number)}"):
            read(root / "images")
        return
    count, skipped = read(root / "images")
    assert [skip.reason for skip in skipped] == [os.strerror(number)]
    assert count == 2


def test_a_list_of_addresses(memory: Any, tmp_path: Path) -> None:
    (tmp_path / "l.txt").write_text("memory://images/sub/2.png\nmemory://images/gone.png\n")
    found = extract_features(make_model(), tmp_path / "l.txt")
    assert found.sources == ["memory://images/sub/2.png"]
    assert found.skipped[0].source == "memory://images/gone.png"


def test_a_list_cannot_name_templates(memory: Any, tmp_path: Path) -> None:
    template = "{{ cycler.__init__.__globals__.os.system('touch %s') }}" % (tmp_path / "run")
    gen = [{"key": template, "url": "a", "dimensions": {"i": [0]}}]
    (tmp_path / "r.json").write_text(json.dumps({"version": 1, "gen": gen, "refs": {"a.png": "x"}}))
    (tmp_path / "l.txt").write_text(f"reference://a.png::file://{tmp_path}/r.json\n")
    with pytest.raises(DataError, match="can run code"):
        extract_features(make_model(), tmp_path / "l.txt")
    assert not (tmp_path / "run").exists()


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for module, given, extra in [
        ("fsspec.core", "s3://bucket/a.png", "remote"),
        ("webdataset.shardlists", "t-{0..1}.tar", "wds"),
    ]:
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(MissingDependencyError, match=rf"cassle-zoo\[{extra}\]"):
            expand_inputs(given)


def test_kinds_that_cannot_be_read_here(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("x.heic", "sub/y.HEIC", "z.dng", ".hidden.heic"):
        (root / "images" / name).write_bytes(b"?")
    known = common_images.image_endings()
    without = known - {".heic", ".heif", ".hif", ".heics", ".heifs"}
    monkeypatch.setattr("cassle_zoo.data.listing.image_endings", lambda: without)
    out = str(root / "f.csv")
    assert (
        main(["features", "resnet18_cassle_simclr.emoji64", str(root / "images"), "-o", out]) == 1
    )
    said = capsys.readouterr()
    assert "3 images x 512" in said.out
    assert (
        f"left out {root / 'images'}: 2 .heic, 1 .dng not read: pip install 'cassle-zoo[heic]'; "
        "convert .dng to .jpg, .png or .tif" in said.err
    )


def test_heic_is_read_where_its_package_is() -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    content = io.BytesIO()
    pillow_heif.from_pillow(make_image(0, (64, 64))).save(content)
    assert common_images.open_image(content.getvalue()).size == (64, 64)
    assert ".heic" in common_images.image_endings()


def test_max_pixels(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("PIL.Image.MAX_IMAGE_PIXELS", 10**6)
    make_image(0, (100, 100)).save(root / "large.png")
    arguments = ["features", "resnet18_cassle_simclr.emoji64", str(root / "large.png")]
    output = ["-o", str(root / "f.csv")]
    options: list[Callable[[], int]] = [
        lambda: main([*arguments, "--max-pixels", "10000", *output]),
        lambda: main([*arguments, "--max-pixels", "9998", "--workers", "1", *output]),
        lambda: main([*arguments, "--max-pixels", "0", *output]),
    ]
    assert [run() for run in options] == [0, 2, 2]
