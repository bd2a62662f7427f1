"""Keeps extracted features on disk, so that a second evaluation of a model starts at once."""

import hashlib
import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

CACHE_VARIABLE = "CASSLE_ZOO_CACHE"
_FORMAT = "1"


def default_folder() -> Path:
    """Return `$CASSLE_ZOO_CACHE`, or `cassle_zoo/features` in the user's cache folder."""
    chosen = os.environ.get(CACHE_VARIABLE)
    if chosen:
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "cassle_zoo" / "features"


class FeatureCache:
    """A folder of files, each named by a hash of what its features depend on."""

    def __init__(self, folder: Path | None = None) -> None:
        """Use `folder`, or the default one; it is created when something is kept."""
        self.folder = folder or default_folder()

    def get(self, key: Sequence[str], extract: Callable[[], Tensor]) -> Tensor:
        """Return the features kept under `key`, extracting them if there are none.

        Args:
            key: All that the features depend on: hashes of weights and data, the transform, ...
            extract: Computes the features.

        Returns:
            The features, bit for bit as extracted. A damaged file is replaced.

        Warns:
            UserWarning: If they cannot be kept: the disk is full, for example.
        """
        text = "\n".join([_FORMAT, *key])
        path = self.folder / f"{hashlib.sha256(text.encode()).hexdigest()}.safetensors"
        if path.is_file():
            try:
                return load_file(path)["features"]
            except (SafetensorError, KeyError):
                path.unlink(missing_ok=True)
        features = extract().contiguous()
        try:
            self._keep(features, path)
        except OSError as error:  # after hours, no reason to lose them
            reason = error.strerror or error
            warnings.warn(f"the features are not kept in {self.folder}: {reason}.", stacklevel=2)
        return features

    def _keep(self, features: Tensor, path: Path) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}.partial")
        try:
            partial.write_bytes(save({"features": features}))
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
