"""Files are the old ones or the new ones, whatever happens while they are written."""

import os
import resource
from pathlib import Path

import pytest

from cassle_zoo.common.files import (
    atomic_folder,
    atomic_write,
    read_json,
    remove_partials,
    sha256,
    write_bytes,
    write_json,
)


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a"
    write_bytes(path, b"old")
    with pytest.raises(KeyboardInterrupt), atomic_write(path) as partial:
        partial.write_bytes(b"ne")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_takes_a_name_as_long_as_names_get(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 255)
    write_bytes(path, b"new")
    assert path.read_bytes() == b"new"


def test_writers_of_one_file_do_not_meet(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with atomic_write(path) as one, atomic_write(path) as other:
        one.write_bytes(b"one")
        other.write_bytes(b"other")
    assert path.read_bytes() == b"one"  # that of the block that ended last
    assert list(tmp_path.iterdir()) == [path]


def test_a_synced_file_is_on_the_disk_before_it_gets_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, int]] = []
    fsync, replace = os.fsync, os.replace

    def noted_fsync(file: int) -> None:
        fsync(file)
        seen.append(("sync", os.fstat(file).st_ino))

    def noted_replace(source: Path, target: Path) -> None:
        seen.append(("rename", source.stat().st_ino))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "replace", noted_replace)
    write_json(tmp_path / "a", {}, sync=True)
    number = (tmp_path / "a").stat().st_ino
    assert seen == [("sync", number), ("rename", number)]


def test_a_folder_is_replaced_whole(tmp_path: Path) -> None:
    folder = tmp_path / "parent" / "a"
    for name in ("one", "two"):
        with atomic_folder(folder) as staged:
            (staged / name).touch()
        assert [path.name for path in folder.iterdir()] == [name]
        assert list(folder.parent.iterdir()) == [folder]


def test_an_interrupted_folder_leaves_the_old_one(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "a") as staged:
        (staged / "old").touch()
    with pytest.raises(KeyboardInterrupt), atomic_folder(tmp_path / "a") as staged:
        (staged / "new").touch()
        raise KeyboardInterrupt
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["old"]
    assert list(tmp_path.iterdir()) == [tmp_path / "a"]


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(OSError, match=r"page\.html"):
            write_bytes(tmp_path / "page.html", bytes(2000))
        with pytest.raises(OSError, match="model"), atomic_folder(tmp_path / "model") as staged:
            (staged / "a").write_bytes(bytes(2000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_put_in_place_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with atomic_folder(tmp_path / "a") as staged:
        (staged / "old").touch()
    replace = os.replace

    def fails(source: Path, target: Path) -> None:
        if source.name.startswith(".partial-"):
            raise OSError("no")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fails)
    with pytest.raises(OSError, match="no"), atomic_folder(tmp_path / "a") as staged:
        (staged / "new").touch()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["old"]
    assert list(tmp_path.iterdir()) == [tmp_path / "a"]


def test_partials_of_killed_processes_are_removed_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "kept").touch()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "file").touch()
    (tmp_path / ".partial-download").mkdir()
    (tmp_path / ".partial-0123456789abcdef").touch()
    (tmp_path / ".partial-fedcba9876543210").mkdir()
    (tmp_path / ".partial-fedcba9876543210" / "file").touch()
    remove_partials(tmp_path)
    remove_partials(tmp_path / "missing")
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == [".partial-download", "elsewhere", "kept"]


def test_hashes_of_bytes_texts_and_files_agree(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes("ä".encode())
    assert sha256("ä") == sha256("ä".encode()) == sha256(tmp_path / "a")


def test_names_that_are_not_utf8_are_hashed_and_written(tmp_path: Path) -> None:
    assert sha256("caf\udce9") == sha256(b"caf\xe9")
    value = {"caf\udce9 \u00e9": ["\\udce9", "\\\udce9"]}
    write_json(tmp_path / "a", value)
    assert read_json(tmp_path / "a") == value
    assert "\u00e9" in (tmp_path / "a").read_text("utf-8")


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(b"old")
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "target")
    write_bytes(link, b"new")
    assert link.is_symlink()
    assert (tmp_path / "target").read_bytes() == b"new"


def test_a_pipe_is_written_to_and_stays_one(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_bytes(pipe, b"new")
        assert os.read(reader, 9) == b"new"
    finally:
        os.close(reader)
    assert pipe.is_fifo()


def test_the_reason_is_not_hidden_by_the_clean_up(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="the disk is full"), atomic_write(tmp_path / "file" / "a"):
        raise OSError("the disk is full")
