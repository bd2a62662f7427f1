"""timm's models, by name or from folders and repositories that timm wrote; no classifier."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from cassle_zoo.common.errors import (
    ModelFolderError,
    UnknownNameError,
    WeightsUnavailableError,
    unknown_name,
)
from cassle_zoo.common.hub_client import is_unreachable, public_cause, redacted, unreachable_error
from cassle_zoo.specs import is_zoo_name
from cassle_zoo.store.config import SOURCE_FIELDS
from cassle_zoo.store.folder import MODEL_FILE
from cassle_zoo.store.model_files import HUB_PREFIX, LOCAL_PREFIX, local_folder

if TYPE_CHECKING:
    from torch import nn

TIMM_PREFIX = "timm:"


def timm_name(name: str) -> str | None:
    """Return timm's own name for a model.

    Args:
        name: `timm:NAME`, or a name that the zoo and timm may both know; then the zoo's model is
            meant.

    Returns:
        The name without prefix; `None` if it is a model of the zoo, a folder or a repository, or
        unknown to both.

    Raises:
        UnknownNameError: timm has no such tag, or no model of a name that begins with `timm:`.
    """
    import timm

    own = name.removeprefix(TIMM_PREFIX).removeprefix("timm/")
    if own == name and name.startswith((HUB_PREFIX, LOCAL_PREFIX)):
        return None
    if timm.is_model(own) and (own != name or not is_zoo_name(own)):
        check_timm_tag(own)
        return own
    if name.startswith(TIMM_PREFIX):
        raise unknown_name("model of timm", own, timm.list_models(), listed_by="timm.list_models()")
    return None


def timm_model(
    name: str, pretrained: bool = True, *, advice: str = "", **kwargs: Any
) -> "nn.Module":
    """Build a model of timm, by default without its classifier.

    Args:
        name: From :func:`timm_name`; or `hf-hub:...` or `local-dir:...` for what timm wrote.
        pretrained: Whether to load the weights.
        advice: What else the user can do if they cannot be loaded, as part of a sentence.
        **kwargs: timm's arguments.

    Raises:
        WeightsUnavailableError: timm has no weights, or they cannot be loaded.
        ModelFolderError: A folder, repository or file of the caller's does not hold all weights.
    """
    import timm

    from cassle_zoo.store.tensors import CopiedTensors, check_backbone_keys

    own = {"num_classes": 0, **kwargs}
    if own.get("features_only"):
        del own["num_classes"]
    if name.startswith(LOCAL_PREFIX):
        return _of_folder(local_folder(name), pretrained, own)
    overlay = own.get("pretrained_cfg_overlay") or {}
    is_own = name.startswith(HUB_PREFIX) or bool(own.get("pretrained_cfg"))
    is_own |= not overlay.keys().isdisjoint(SOURCE_FIELDS)
    if pretrained and not is_own:  # weights of the caller's choice are not replaced
        cached = _cached_if_offline(name, advice, own.get("cache_dir"))
        own["pretrained_cfg_overlay"] = {**overlay, **cached} or None
    loaded = CopiedTensors()  # timm is not strict once the number of classes differs
    # The Hub's client, the network and timm raise errors of many types.
    try:
        with loaded:
            model: nn.Module = timm.create_model(name, pretrained=pretrained, **own)
    except Exception as error:
        if not pretrained:
            raise
        raise WeightsUnavailableError(
            f"timm's pretrained weights of {name} cannot be loaded: {redacted(str(error))} They "
            "come from the network once and are cached by the Hub's client (HF_HOME)"
            f"{advice and f'; {advice}'}."
        ) from public_cause(error)
    if pretrained and is_own:
        check_backbone_keys(loaded.names(model), model, is_part=True, source=name)
    return model


def _cached_if_offline(name: str, advice: str, cache_dir: str | Path | None) -> dict[str, Any]:
    """Return, for timm, where a model's weights are cached; empty if the Hub can be reached."""
    from huggingface_hub import try_to_load_from_cache
    from timm.models import get_pretrained_cfg

    cfg = get_pretrained_cfg(name)
    if cfg is None or not cfg.hf_hub_id or not is_unreachable():
        return {}
    repo, _, revision = cfg.hf_hub_id.partition("@")
    for file in filter(None, (cfg.hf_hub_filename, MODEL_FILE, "pytorch_model.bin")):
        cached = try_to_load_from_cache(repo, file, cache_dir, revision or None)
        if isinstance(cached, str):
            # timm 1.0.29 would take the file for the .npz that some models come from.
            return {"file": cached, "custom_load": False}
    what = f"the file of timm's pretrained weights of {name}"
    error = unreachable_error(what, cache_dir)
    raise WeightsUnavailableError(f"{error}{advice and f' Or {advice}.'}")


def _of_folder(folder: Path, pretrained: bool, kwargs: dict[str, Any]) -> "nn.Module":
    import timm

    from cassle_zoo.store.tensors import CopiedTensors, check_backbone_keys

    loaded = CopiedTensors()
    try:
        with loaded:
            model: nn.Module = timm.create_model(
                f"{LOCAL_PREFIX}{folder}", pretrained=pretrained, **kwargs
            )
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise ModelFolderError(
            f"timm cannot load its model folder {folder} with {kwargs}: {reason}"
        ) from error
    if pretrained:
        check_backbone_keys(loaded.names(model), model, is_part=True, source=str(folder))
    return model


def check_timm_tag(name: str) -> None:
    """Check that timm has the tag of a name; a name without tag passes.

    Raises:
        UnknownNameError: It does not; the message lists the existing tags.
    """
    import timm
    from timm.models import get_pretrained_cfg

    architecture, _, tag = name.partition(".")
    if not tag:
        return
    try:
        get_pretrained_cfg(name)
    except RuntimeError:
        known = [other.partition(".")[2] for other in timm.list_pretrained(f"{architecture}.*")]
        if not known:
            raise UnknownNameError(
                f"timm has no tag {tag!r} of {architecture!r}, which has no pretrained weights."
            ) from None
        raise unknown_name(f"tag of timm's {architecture}", tag, known) from None
