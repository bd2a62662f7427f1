"""From a model's name to checked files: :func:`resolve`."""

from cassle_zoo.store.model_files import ModelFiles, resolve

__all__ = ["ModelFiles", "resolve"]
