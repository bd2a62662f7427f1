"""Construction of emoji64.tar from three npm packages.

Get the packages (about 150 MB; npm comes with Node.js), then build::

    npm pack emoji-datasource-google@16.0.0 emoji-datasource-twitter@16.0.0 \
        @lobehub/fluent-emoji-3d@1.1.0
    python -m cassle_zoo.data.emoji64_build *.tgz -o emoji64.tar

Unpacked package folders work too. Licences of the images: Noto Emoji Apache-2.0; Twemoji CC-BY
4.0 (copyright Twitter, Inc. and other contributors); Fluent Emoji MIT (copyright Microsoft).
"""

import argparse
import io
import json
import os
import sys
import tarfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from PIL import Image

from cassle_zoo.common.errors import CassleZooError, ConfigError, DataError
from cassle_zoo.common.exit_status import ExitStatus
from cassle_zoo.common.files import atomic_write, check_folder, parse_json, sha256
from cassle_zoo.common.terminal import busy
from cassle_zoo.data.emoji64 import (
    EMOJI64_SHA256,
    METADATA_FILE,
    Emoji64,
    Record,
    format_metadata,
)

_SIZE = 64
_MTIME = 1767225600  # fixed (2026-01-01), so that the same input gives the same tar
_ONE_TEST_BASE_IN = 5
_MODIFIERS = {
    "1F3FB": "light",
    "1F3FC": "medium-light",
    "1F3FD": "medium",
    "1F3FE": "medium-dark",
    "1F3FF": "dark",
}


class Package(NamedTuple):
    """An npm package that emoji64 is made of."""

    name: str
    version: str
    vendor: str
    images: str
    suffix: str


PACKAGES = (
    Package("emoji-datasource-google", "16.0.0", "noto", "img/google/64/", ".png"),
    Package("emoji-datasource-twitter", "16.0.0", "twemoji", "img/twitter/64/", ".png"),
    Package("@lobehub/fluent-emoji-3d", "1.1.0", "fluent3d", "assets/", ".webp"),
)


def build_emoji64(
    packages: Sequence[str | os.PathLike[str]], out: str | os.PathLike[str]
) -> tuple[Record, ...]:
    """Build the dataset.

    Args:
        packages: The three packages, in any order: ``.tgz`` files as ``npm pack`` writes them, or
            unpacked folders.
        out: The tar file to write, all or nothing.

    Returns:
        The records of the images.

    Raises:
        DataError: If a package is missing, of another version, damaged or unsafe.
        ConfigError: If nothing can be written to the tar's folder, which is created, or `out` is a
            folder.
    """
    out = Path(out)
    check_folder(out.parent, "-o")
    if out.is_dir():
        raise ConfigError(f"-o {out} is a folder; name the file, such as emoji64.tar.")
    contents = _read_packages([Path(package) for package in packages])
    try:
        emoji = json.loads(contents["noto"]["emoji.json"])
    except (KeyError, ValueError) as error:
        raise DataError(
            f"the package {PACKAGES[0].name} has no emoji.json, or a damaged one: {error!r}."
        ) from error
    images = {p.vendor: _images(p, contents[p.vendor]) for p in PACKAGES}
    records = tuple(_records(emoji, images))
    files = {METADATA_FILE: format_metadata(records).encode()}
    for record in records:
        source = images[record.vendor][_key(record.unified)]
        files[record.file_name] = _render(source, record.file_name)
    _write_tar(files, out)
    return records


def _records(
    emoji: Sequence[Mapping[str, Any]], images: Mapping[str, Mapping[str, bytes]]
) -> Iterator[Record]:
    for entry in emoji:
        base = entry["unified"]
        split = "test" if int(sha256(base), 16) % _ONE_TEST_BASE_IN == 0 else "train"
        variants = {"": entry, **entry.get("skin_variations", {})}
        for modifier, variant in variants.items():
            # Two modifiers (two people) count as mixed even if they are equal.
            tone = _MODIFIERS.get(modifier, "mixed") if modifier else "none"
            code = variant["unified"]
            for vendor, drawn in images.items():
                if _key(code) in drawn:
                    yield Record(
                        file_name=f"{vendor}/{code.lower()}.png",
                        vendor=vendor,
                        unified=code,
                        base=base,
                        name=entry["name"],
                        category=entry["category"],
                        subcategory=entry["subcategory"],
                        skin_tone=tone,
                        split=split,
                    )


def _images(package: Package, files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return the images by the :func:`_key` of their code points."""
    images: dict[str, bytes] = {}
    for name in sorted(files):
        if name.startswith(package.images):
            code = name.removeprefix(package.images).removesuffix(package.suffix)
            # fluent-emoji-3d holds some images twice; the first by name is in emoji64.
            images.setdefault(_key(code), files[name])
    return images


def _key(code: str) -> str:
    """Drop the variation selectors from code points, because the packages use them differently."""
    return code.lower().replace("-fe0f", "")


def _render(content: bytes, name: str) -> bytes:
    """Make the 64 px PNG: pad to a square and resize in RGBA, then composite on white."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            rgba = image.convert("RGBA")
    except (OSError, ValueError) as error:
        raise DataError(f"cannot decode the image for {name}: {error}") from error
    if rgba.size != (_SIZE, _SIZE):
        rgba = _square(rgba).resize((_SIZE, _SIZE), Image.Resampling.LANCZOS)
    white = Image.new("RGBA", rgba.size, "white")
    out = io.BytesIO()
    Image.alpha_composite(white, rgba).convert("RGB").save(out, "PNG", optimize=True)
    return out.getvalue()


def _square(image: Image.Image) -> Image.Image:
    side = max(image.size)
    square = Image.new("RGBA", (side, side), (255, 255, 255, 0))
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square


def _write_tar(files: Mapping[str, bytes], out: Path) -> None:
    ustar = tarfile.USTAR_FORMAT
    with atomic_write(out) as partial, tarfile.open(partial, "w", format=ustar) as archive:
        for name, content in sorted(files.items()):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            member.mtime = _MTIME
            archive.addfile(member, io.BytesIO(content))


def _read_packages(paths: Sequence[Path]) -> dict[str, dict[str, bytes]]:
    found: dict[str, dict[str, bytes]] = {}
    for path in paths:
        files = _read_folder(path) if path.is_dir() else _read_archive(path)
        found[_identify(files, path).vendor] = files
    missing = [f"{p.name}@{p.version}" for p in PACKAGES if p.vendor not in found]
    if missing:
        raise DataError(
            f"missing: {', '.join(missing)}. Get them with `npm pack {' '.join(missing)}`."
        )
    return found


def _identify(files: Mapping[str, bytes], path: Path) -> Package:
    if "package.json" not in files:
        raise DataError(f"{path} is not an npm package: it has no package.json.")
    try:
        about = parse_json(files["package.json"].decode())
        name, version = about["name"], about["version"]
    except (ValueError, KeyError) as error:
        raise DataError(f"{path}: cannot read package.json: {error!r}") from error
    packages = {package.name: package for package in PACKAGES}
    if name not in packages:
        raise DataError(f"{path} is the package {name!r}, expected one of {', '.join(packages)}.")
    package = packages[name]
    if package.version != version:
        raise DataError(
            f"{path} is {name}@{version}; emoji64 is made from {package.version}: "
            f"`npm pack {name}@{package.version}`."
        )
    return package


def _wanted(name: str) -> bool:
    return name in ("package.json", "emoji.json") or any(
        name.startswith(package.images) and name.endswith(package.suffix) for package in PACKAGES
    )


def _read_archive(path: Path) -> dict[str, bytes]:
    if not path.is_file():
        raise DataError(f"{path}: no such file or folder.")
    files: dict[str, bytes] = {}
    try:
        with tarfile.open(path, "r:*") as archive:
            for member in archive:
                parts = PurePosixPath(member.name).parts
                if member.name.startswith("/") or ".." in parts:
                    raise DataError(f"{path}: refused, it has the unsafe path {member.name!r}.")
                name = "/".join(parts[1:])  # npm puts everything under package/
                if member.isfile() and _wanted(name):
                    file = archive.extractfile(member)
                    files[name] = file.read() if file is not None else b""
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise DataError(f"{path} is not a complete npm package: {error}") from error
    return files


def _read_folder(path: Path) -> dict[str, bytes]:
    root = path / "package" if (path / "package").is_dir() else path
    files = {path.relative_to(root).as_posix(): path for path in root.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in files.items() if _wanted(name)}


def main(argv: Sequence[str] | None = None) -> ExitStatus:
    """Build emoji64 from the command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("packages", nargs="+", help="the three packages (.tgz or folder)")
    parser.add_argument("-o", "--output", default="emoji64.tar", help="default: %(default)s")
    args = parser.parse_args(argv)
    try:
        with busy("building emoji64"):
            records = build_emoji64(args.packages, args.output)
            found = Emoji64.open(args.output).sha256
    except CassleZooError as error:
        print(f"error: {error}", file=sys.stderr)
        return ExitStatus.ERROR
    same = found == EMOJI64_SHA256
    message = "identical to the published data" if same else f"NOT the published data ({found})"
    print(f"{args.output}: {len(records)} images; {message}")
    return ExitStatus.OK


if __name__ == "__main__":
    raise SystemExit(main())
