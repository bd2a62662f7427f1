"""`skip_random_weights`: for building networks whose weights are about to be loaded."""

import contextlib
import math
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_RANDOM: frozenset[Callable[..., Any]] = frozenset(
    {
        Tensor.normal_,
        Tensor.uniform_,
        nn.init.kaiming_normal_,
        nn.init.kaiming_uniform_,
        nn.init.normal_,
        nn.init.uniform_,
    }
)


def skip_random_weights(
    skip: bool = True, *, nan: bool = False
) -> contextlib.AbstractContextManager[Any]:
    """Skip drawing random weights, which takes more than half the time of building a network.

    The weights have arbitrary values until they are loaded, so all of them must be; constants such
    as those of norms are set as usual. torch's random state does not change.

    Args:
        skip: Whether to do so; if not, nothing changes.
        nan: Whether the weights become NaN, so that a weight that is not loaded is noticed.
    """
    return _NothingDrawn(nan) if skip else contextlib.nullcontext()


class _NothingDrawn(TorchFunctionMode):
    def __init__(self, nan: bool) -> None:
        super().__init__()
        self._nan = nan

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func in _RANDOM:
            tensor = args[0] if args else kwargs["tensor"]  # nn.init passes its tensor by name
            if self._nan:
                tensor.detach().fill_(math.nan)
            return tensor
        return func(*args, **kwargs)
