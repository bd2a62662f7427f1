"""The listing of images: three readers of one folder see the same files in the same order."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from cassle_zoo.common.errors import DataError
from cassle_zoo.common.images import open_image
from cassle_zoo.data.listing import ClassFolders, list_classes, list_images
from cassle_zoo.eval.datasets import open_data
from cassle_zoo.features.inputs import expand_inputs
from cassle_zoo.train.config import DataConfig
from cassle_zoo.train.data.datasets import open_dataset


def write(root: Path, *names: str) -> Path:
    """Write files whose content is their name: listings do not read them."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    return root


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """16 images of two classes for training, and two to test on."""
    root = tmp_path / "plain"
    names = [f"train/{name}/{i:02d}.png" for name in ("cat", "dog") for i in range(8)]
    return write(root, *names, "test/cat/0.png", "test/dog/0.png")


def names_in_eval(root: Path) -> list[str]:
    return [name for name in open_data("folder", root).names if name.startswith("train/")]


def names_in_train(root: Path) -> list[str]:
    dataset = open_dataset(DataConfig(root=str(root), split="train"))
    return [f"train/{dataset.filename(index)}" for index in range(len(dataset))]


def names_in_features(root: Path) -> list[str]:
    images, skipped = expand_inputs(root / "train")
    assert not skipped
    return [Path(image.source).relative_to(root).as_posix() for image in images]


READERS = [names_in_features, names_in_train, names_in_eval]


@pytest.mark.parametrize("names_in", READERS)
def test_an_odd_folder(plain: Path, names_in: Callable[[Path], list[str]]) -> None:
    odd = ["cat/._00.png", "cat/.hidden/a.png", ".ipynb_checkpoints/00.png", "cat/notes.txt"]
    more = ["cat/sub/a.tif", "cat/10.JFIF", "cat/9.gif", "dog/a-b/x.png", "dog/a/y/x.webp"]
    write(plain / "train", *odd, *more)
    (plain / "train" / "dog" / "loop").symlink_to(plain / "train")
    (plain / "train" / "dog" / "itself").symlink_to("itself")
    (plain / "train" / "dog" / "broken.png").symlink_to("nowhere")
    if names_in is names_in_eval:  # which needs every file
        with pytest.raises(DataError, match=r"1 of 24 images .*dog/broken\.png"):
            names_in(plain)
        (plain / "train" / "dog" / "broken.png").unlink()
        write(plain / "train", "dog/broken.png")
    numbered = [f"0{i}.png" for i in range(8)]
    cats = [*numbered, "10.JFIF", "9.gif", "sub/a.tif"]
    dogs = [*numbered, "a/y/x.webp", "a-b/x.png", "broken.png"]
    expected = [*(f"train/cat/{name}" for name in cats), *(f"train/dog/{name}" for name in dogs)]
    assert names_in(plain) == expected


@pytest.mark.parametrize("names_in", READERS)
@pytest.mark.parametrize("junk", ["dog/._00.png", ".ipynb_checkpoints/00.png", "dog/.thumbs/0.png"])
def test_hidden_files_and_folders_do_not_count(
    plain: Path, junk: str, names_in: Callable[[Path], list[str]]
) -> None:
    write(plain / "train", junk)
    assert len(names_in(plain)) == 16
    assert open_data("folder", plain).tasks[0].classes == ("cat", "dog")


@pytest.mark.parametrize("names_in", READERS)
@pytest.mark.parametrize("target", ["..", "."])
def test_a_link_to_a_parent_folder_adds_nothing(
    plain: Path, target: str, names_in: Callable[[Path], list[str]]
) -> None:
    (plain / "train" / "dog" / "loop").symlink_to(target)
    assert len(names_in(plain)) == 16


@pytest.mark.parametrize("names_in", READERS)
def test_a_link_to_other_images_is_followed(
    plain: Path, tmp_path: Path, names_in: Callable[[Path], list[str]]
) -> None:
    write(tmp_path / "elsewhere", "a.png")
    (plain / "train" / "dog" / "more").symlink_to(tmp_path / "elsewhere")
    assert names_in(plain)[-1] == "train/dog/more/a.png"


@pytest.mark.parametrize("names_in", READERS)
@pytest.mark.parametrize("ending", ["jfif", "GIF", "jpe", "tga", "ppm"])
def test_no_readable_file_is_left_out(
    plain: Path, ending: str, names_in: Callable[[Path], list[str]]
) -> None:
    write(plain / "train", f"dog/09.{ending}")
    assert names_in(plain)[-1] == f"train/dog/09.{ending}"


@pytest.mark.parametrize("folder", ["train", "train/dog", "train/dog/deep"])
def test_evaluation_names_a_folder_that_it_cannot_open(
    plain: Path, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(plain / "train", "dog/deep/a.png")
    lock(plain / folder, monkeypatch)
    with pytest.raises(DataError, match=f"{plain / folder}.*Permission denied"):
        open_data("folder", plain)


def lock(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `folder` not be opened (chmod does not keep root out)."""

    def guarded(function: Callable[[Path], object]) -> Callable[[Path], object]:
        def call(path: Path) -> object:
            if Path(path) == folder:
                raise PermissionError(13, "Permission denied", str(path))
            return function(path)

        return call

    for name in ("scandir", "listdir"):
        monkeypatch.setattr(os, name, guarded(getattr(os, name)))


def test_classes_in_the_order_of_image_folder(tmp_path: Path) -> None:
    write(tmp_path, "b/1.png", "b/0.png", "a b/1.png", "a/1/x.png", "B/1.png", "montage.png")
    assert list_classes(tmp_path) == ClassFolders(
        names=("B/1.png", "a/1/x.png", "a b/1.png", "b/0.png", "b/1.png"),
        labels=(0, 1, 2, 3, 3),
        classes=("B", "a", "a b", "b"),
    )
    assert list_classes(tmp_path, classes=("b", "a")) == ClassFolders(
        names=("a/1/x.png", "b/0.png", "b/1.png"), labels=(1, 0, 0), classes=("b", "a")
    )


def test_two_names_of_one_class_folder(tmp_path: Path) -> None:
    write(tmp_path, "a/1.png", "b/1.png")
    (tmp_path / "c").symlink_to("a")
    with pytest.raises(DataError, match=r"no images of the classes c .*counts once"):
        list_classes(tmp_path)


def test_list_is_recursive_sorted_and_only_of_images(tmp_path: Path) -> None:
    for name in ["b/2.JPG", "b/10.png", "a.webp", "z.png", ".hidden.png", ".git/x.png", "n.txt"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = [path.relative_to(tmp_path).as_posix() for path in list_images(tmp_path)]
    assert found == ["a.webp", "b/10.png", "b/2.JPG", "z.png"]


def test_named_file_is_taken_whatever_its_ending(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    assert list_images(tmp_path / "notes.txt") == [tmp_path / "notes.txt"]


def test_links(tmp_path: Path) -> None:
    real = tmp_path / "outside"
    real.mkdir()
    (real / "a.png").touch()
    root = tmp_path / "root"
    root.mkdir()
    (root / "linked").symlink_to(real)
    (real / "loop").symlink_to(root)
    (root / "broken.png").symlink_to("nowhere")
    (root / "itself.png").symlink_to("itself.png")
    found = [path.relative_to(root).as_posix() for path in list_images(root)]
    assert found == ["broken.png", "itself.png", "linked/a.png"]
    with pytest.raises(DataError, match="symbolic links"):
        open_image(root / "itself.png")


def test_missing_path_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nothing-here"):
        list_images(tmp_path / "nothing-here")


def test_folder_that_cannot_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "locked").mkdir()
    (tmp_path / "a.png").touch()
    lock(tmp_path / "locked", monkeypatch)
    with pytest.raises(DataError, match="locked"):
        list_images(tmp_path)
    errors: list[tuple[Path, str]] = []
    found = list_images(tmp_path, on_error=lambda *error: errors.append(error))
    assert found == [tmp_path / "a.png"]
    assert errors == [(tmp_path / "locked", "Permission denied")]


def test_folders_in_a_folder_that_may_only_be_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "a.png", "closed/deep/b.png")
    status = os.stat

    def guarded(path: str | Path, **options: bool) -> os.stat_result:
        if isinstance(path, str | Path) and Path(path).parent == tmp_path / "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return status(path, **options)

    monkeypatch.setattr(os, "stat", guarded)
    errors: list[tuple[Path, str]] = []
    found = list_images(tmp_path, on_error=lambda *error: errors.append(error))
    assert found == [tmp_path / "a.png"]
    assert errors == [(tmp_path / "closed" / "deep", "Permission denied")]
