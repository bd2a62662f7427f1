"""`skip_random_weights`: for building networks whose weights are about to be loaded."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
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


@contextmanager
def skip_random_weights(skip: bool = True) -> Iterator[None]:
    """Leave out drawing random weights, more than half of the time that building a network takes.

    What would have been drawn holds arbitrary values until weights are loaded, so all of them must
    be; constants such as those of norms are set as usual. torch's random state stays as it is.

    Args:
        skip: Whether to do so; if not, nothing changes.

    Yields:
        Nothing; build the network inside.
    """
    if not skip:
        yield
        return
    with _NothingDrawn():
        yield


class _NothingDrawn(TorchFunctionMode):
    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func in _RANDOM:
            # nn.init hands over its tensor by name.
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)
