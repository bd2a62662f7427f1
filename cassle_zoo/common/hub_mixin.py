"""huggingface_hub's mixin for modules, made strict."""

from collections.abc import Mapping
from typing import Any, Self

from huggingface_hub import PyTorchModelHubMixin

from cassle_zoo.common.errors import ModelFolderError


class StrictHubMixin(PyTorchModelHubMixin):
    """Gives a module `save_pretrained`, `from_pretrained` and `push_to_hub`.

    Unlike huggingface_hub's own, loading refuses missing weights and unknown settings. The module's
    constructor takes `config`, a dataclass with a method `from_dict`.
    """

    @classmethod
    def _from_pretrained(cls, *, strict: bool = True, **kwargs: Any) -> Self:
        """Load all weights or none, where the mixin's default would load what fits."""
        if "config" not in kwargs:
            raise ModelFolderError(
                f"{kwargs.get('model_id')} has no config.json, so save_pretrained did not write it."
            )
        module: Self = super()._from_pretrained(strict=strict, **kwargs)
        return module

    @classmethod
    def _decode_arg(cls, expected_type: Any, value: Any) -> Any:
        """Check the configuration; the mixin would leave out fields that it does not know."""
        if not hasattr(expected_type, "from_dict") or not isinstance(value, Mapping):
            return super()._decode_arg(expected_type, value)
        if "cassle_zoo" in value:
            raise ModelFolderError(
                "this is a model folder, not a projector written by save_pretrained; use "
                "cassle_zoo.create_projector('local-dir:DIR', pretrained=True)."
            )
        return expected_type.from_dict(value)
