"""Images in folders, found as `extract_features` finds them."""

from pathlib import Path

from PIL import Image
from torch.utils.data import Dataset

from cassle_zoo.common.errors import DataError
from cassle_zoo.common.images import open_image
from cassle_zoo.data.listing import list_images as list_image_files


class FolderImages(Dataset[tuple[Image.Image, int]]):
    """All images of a folder and the folders below it.

    Attributes:
        root: The folder.
        notes: A line on each folder that cannot be opened, and is left out.
    """

    def __init__(self, root: Path) -> None:
        """List the files; an image's label is the number of its folder's name.

        Raises:
            DataError: If there are no images.
        """
        self.root = root
        self.notes: list[str] = []
        self._files = list_image_files(root, on_error=self._left_out)
        if not self._files:
            reasons = "; ".join(self.notes) or "it holds no images"
            raise DataError(f"cannot open {str(root)!r} as a folder of images: {reasons}")
        names = sorted({file.parent.name for file in self._files})
        labels = {name: label for label, name in enumerate(names)}
        self._labels = [labels[file.parent.name] for file in self._files]

    def _left_out(self, folder: Path, reason: str) -> None:
        self.notes.append(f"folder {str(folder)!r} is left out: {reason}.")

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._files)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        """Return an image and its label.

        Raises:
            UnreadableImageError: If it cannot be read.
        """
        return open_image(self._files[index]), self._labels[index]

    def filename(self, index: int) -> str:
        """Return the name of the image's file, within the folder."""
        return str(self._files[index].relative_to(self.root))
