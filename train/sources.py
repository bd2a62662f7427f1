"""Sources of starting weights: names of models, folders, runs, and checkpoint files."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import load_state_dict, split_model_name_tag
from timm.models._hub import download_cached_file, load_model_config_from_path
from torch import Tensor

from cassle_zoo.checkpoints.identify import (
    CheckpointFacts,
    IdentifiedCheckpoint,
    identify,
    identify_content,
    read_settings,
)
from cassle_zoo.checkpoints.run_checkpoint import load_checkpoint
from cassle_zoo.common.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    ModelFolderError,
    unknown_name,
)
from cassle_zoo.common.files import expand_home, read_json, sha256
from cassle_zoo.projector import ConditionedProjector
from cassle_zoo.records import (
    BACKBONE_FILE,
    CHECKPOINT_FILE,
    EXPORT_FILE,
    FINAL_FOLDER,
    PROJECTOR_FILE,
    RunExport,
    StartingWeights,
)
from cassle_zoo.specs import DATASETS, MODEL_SPECS, STARTING_WEIGHTS, is_zoo_name
from cassle_zoo.store.download import download
from cassle_zoo.store.folder import CONFIG_FILE, MODEL_FILE
from cassle_zoo.store.model_files import HUB_PREFIX, LOCAL_PREFIX, ModelFiles, local_folder, resolve
from cassle_zoo.store.tensors import load_strictly, read_tensors
from cassle_zoo.zoo.create import build_projector, load_projector
from cassle_zoo.zoo.timm_names import TIMM_PREFIX

_PICKLED = "pytorch_model.bin"
_WEIGHT_FILES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar", ".pkl")

State = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """Preprocessing of the images that weights were trained on.

    Attributes:
        size: Height and width in pixels.
        mean: Per-channel mean subtracted from images in [0, 1].
        std: Per-channel standard deviation they were divided by.
        interpolation: How images are resized.
        assumed: Where it is from, in words, if the weights do not say all of it; else empty.
    """

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bicubic"
    assumed: str = ""


@dataclass(frozen=True, kw_only=True)
class Source:
    """Weights that were found.

    Attributes:
        record: What they are, for the run's settings and the model card.
        path: The file of the backbone, or its folder.
        state: The backbone's weights.
        timm_arch: Name of their timm model.
        model_args: Arguments of that timm model.
        cfg: timm's configuration of the weights; `classifier`, `first_conv`, `input_size` and
            `num_classes` are used.
        preprocessing: That of the images they were trained on.
        projector: Their projector, if they have one.
        notes: Assumptions, in sentences.
    """

    record: StartingWeights
    path: Path
    state: State
    timm_arch: str
    model_args: Mapping[str, Any]
    cfg: Mapping[str, Any]
    preprocessing: Preprocessing
    projector: ConditionedProjector | None = None
    notes: tuple[str, ...] = ()


def read_source(what: str, facts: CheckpointFacts) -> Source:
    """Find weights and read them; files on the Hub are downloaded.

    Names go before files: `resnet18` (also `timm:resnet18`) is timm's, `./resnet18` a folder.

    Args:
        what: As `TrainConfig.init`.
        facts: What is known about the network, for files that do not say theirs.

    Raises:
        UnknownNameError: If there is no such name.
        DataError: If there is no such file or folder.
        ConfigError: If timm has no such weights, or there is no such home folder.
        CheckpointError: If a file is unsafe to read, damaged or not understood.
        ModelFolderError: If a model folder or run is incomplete or damaged.
        WeightsUnavailableError: If they cannot be downloaded from the Hub.
    """
    if what.startswith(LOCAL_PREFIX):
        return _folder(local_folder(what))
    if what.startswith(HUB_PREFIX):
        return _repository(what)
    own = what.removeprefix(TIMM_PREFIX)
    if own == what and is_zoo_name(own):
        return _model_folder(_files(what))
    if split_model_name_tag(own)[0] in timm.list_models():
        return _timm_weights(own)
    if own != what:
        raise unknown_name("init", own, timm.list_pretrained(), listed_by="timm.list_pretrained()")
    path = expand_home(what)
    if path.is_dir():
        return _folder(path) if _is_model_folder(path) else _run(path, facts)
    if path.is_file():
        return _file(path, facts)
    if len(path.parts) > 1 or path.suffix.lower() in _WEIGHT_FILES:
        raise DataError(
            f"init {what!r}: there is no such file or folder; check the path (from {Path.cwd()})."
        )
    names = [*MODEL_SPECS, *timm.list_pretrained()]
    error = unknown_name("init", what, names, listed_by="timm.list_pretrained()")
    raise type(error)(f"{error} There is no file or folder of this name either.")


def _is_model_folder(path: Path) -> bool:
    return any((path / name).is_file() for name in (MODEL_FILE, _PICKLED))


def _files(name: str) -> ModelFiles:
    """Return what is read of a model: the rest, such as its card, need not be cached."""
    described = resolve(name, []).has_projector
    return resolve(name, [MODEL_FILE, PROJECTOR_FILE] if described else [MODEL_FILE])


def _model_folder(files: ModelFiles) -> Source:
    """Read a model folder of cassle-zoo; it has a classifier if it was fine-tuned."""
    cfg, spec = files.config["pretrained_cfg"], files.spec
    on_hub = f"{HUB_PREFIX}{spec.hub_repo}@{files.commit}" if files.commit else None
    return Source(
        record=StartingWeights(
            name=spec.full_name,
            sha256=files.sha256(MODEL_FILE),
            license=spec.license,
            origin=on_hub or ("cassle-zoo" if files.verified else None),
        ),
        path=files.folder / MODEL_FILE,
        state=read_tensors(files.folder / MODEL_FILE),
        timm_arch=files.config["architecture"],
        model_args=files.config.get("model_args", {}),
        cfg={**cfg, "num_classes": 0},
        preprocessing=_preprocessing(cfg),
        projector=load_projector(files) if files.has_projector else None,
    )


def _repository(what: str) -> Source:
    """Read a model on the Hub: a model folder of cassle-zoo or of timm."""
    repo, _, revision = what.removeprefix(HUB_PREFIX).partition("@")
    folder = download(repo, revision or None, [CONFIG_FILE])
    if "cassle_zoo" in _json(folder / CONFIG_FILE):
        return _model_folder(_files(what))
    path = _download_weights(repo, folder.name, MODEL_FILE)
    return _timm_folder(folder, path, f"{HUB_PREFIX}{repo}@{folder.name}")


def _download_weights(repo: str, revision: str | None, file: str) -> Path:
    """Download weights that timm wrote, which are a pickle in older repositories."""
    try:
        return download(repo, revision, [file]) / file
    except ModelFolderError:
        if file != MODEL_FILE:
            raise
        return download(repo, revision, [_PICKLED]) / _PICKLED


def _folder(folder: Path) -> Source:
    """Read a model folder written by cassle-zoo or by timm."""
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise ModelFolderError(
            f"{path} is missing, so {folder} is no model folder; name the file of the weights."
        )
    if "cassle_zoo" in _json(path):
        return _model_folder(resolve(f"{LOCAL_PREFIX}{folder}"))
    weights = next((folder / n for n in (MODEL_FILE, _PICKLED) if (folder / n).is_file()), None)
    if weights is None:
        raise ModelFolderError(f"{folder} holds neither {MODEL_FILE} nor {_PICKLED}.")
    return _timm_folder(folder, weights, None)


def _timm_folder(folder: Path, weights: Path, origin: str | None) -> Source:
    try:
        cfg, timm_arch, args = load_model_config_from_path(folder)
        args = dict(args or {})
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ModelFolderError(
            f"{folder / CONFIG_FILE} is no configuration of a timm model ({error!r})."
        ) from error
    return _of_timm(weights, timm_arch, args, cfg, origin)


def _timm_weights(what: str) -> Source:
    """Read weights that timm has a name for."""
    timm_arch, tag = split_model_name_tag(what)
    known = timm.list_pretrained(f"{timm_arch}.*")
    if not known:
        raise ConfigError(f"timm has no weights of {timm_arch}; init {what!r} needs some.")
    if tag and what not in known:
        raise unknown_name("init", what, known)
    cfg = pretrained_cfg(what)
    if repo := cfg.get("hf_hub_id"):
        repo, _, revision = repo.partition("@")
        file = cfg.get("hf_hub_filename") or MODEL_FILE
        weights = _download_weights(repo, revision or None, file)
        origin = f"{HUB_PREFIX}{repo}"
    else:
        weights, origin = Path(download_cached_file(cfg["url"])), cfg["url"]
    return _of_timm(weights, timm_arch, {}, cfg, origin)


def _of_timm(
    weights: Path,
    timm_arch: str,
    args: Mapping[str, Any],
    cfg: Mapping[str, Any],
    origin: str | None,
) -> Source:
    try:
        state = load_state_dict(str(weights))
    except Exception as error:  # torch may raise anything for a damaged file
        raise CheckpointError(
            f"{weights} is damaged, or holds more than weights ({error!s:.200}); get it again."
        ) from error
    tag = cfg.get("tag")
    return Source(
        record=StartingWeights(
            name=f"{timm_arch}.{tag}" if tag else timm_arch,
            sha256=sha256(weights),
            license=cfg.get("license"),
            origin=origin,
        ),
        path=weights,
        state=state,
        timm_arch=timm_arch,
        model_args=args,
        cfg=cfg,
        preprocessing=_preprocessing(cfg),
    )


def _run(folder: Path, facts: CheckpointFacts) -> Source:
    """Read the weights of a run, or of a snapshot: the finished ones, else the latest."""
    exported = next((p for p in (folder, folder / FINAL_FOLDER) if _is_export(p)), None)
    if exported is not None:
        return _export(exported)
    state, _, path = load_checkpoint(folder)
    if state is None or path is None:
        raise ModelFolderError(
            f"{folder} holds neither a model folder ({MODEL_FILE}) nor a run ({FINAL_FOLDER}/ or "
            f"{CHECKPOINT_FILE}); name the folder that has one of these, or a file of weights in "
            "it."
        )
    settings = read_settings(path)
    found = identify_content(state, settings, "", facts)
    name = settings.get("name", folder.name)
    return _identified(found, path, name=f"{name} (step {state.get('step')})")


def _is_export(folder: Path) -> bool:
    return (folder / EXPORT_FILE).is_file() and (folder / BACKBONE_FILE).is_file()


def _export(folder: Path) -> Source:
    export = RunExport.read(folder)
    projector = build_projector(export.projector, folder / EXPORT_FILE)
    path = folder / PROJECTOR_FILE
    load_strictly(projector, read_tensors(path), path)
    own = Preprocessing(
        size=export.input_size[-1],
        mean=export.mean,
        std=export.std,
        interpolation=export.interpolation,
    )
    return Source(
        record=StartingWeights(
            name=export.name,
            sha256=sha256(folder / BACKBONE_FILE),
            license=None,
            origin=f"a run of {export.training.get('steps')} steps",
        ),
        path=folder / BACKBONE_FILE,
        state=read_tensors(folder / BACKBONE_FILE),
        timm_arch=export.timm_arch,
        model_args=export.model_args,
        cfg={"num_classes": 0, "input_size": export.input_size},
        preprocessing=own,
        projector=projector,
    )


def _file(path: Path, facts: CheckpointFacts) -> Source:
    """Read a checkpoint file of any codebase."""
    if path.suffix == ".safetensors":
        found = identify_content(read_tensors(path), {}, "", facts)
    else:
        found = identify(path, facts)
    return _identified(found, path, name=path.name)


def _identified(found: IdentifiedCheckpoint, path: Path, *, name: str) -> Source:
    backbone = found.backbone
    usual = _preprocessing(pretrained_cfg(backbone.timm_arch))
    whose = f"that of timm's {backbone.timm_arch}"
    if found.data is not None or found.is_self_supervised:  # normalised as `hub convert` assumes
        prepared = DATASETS[found.data or "in100"]
        size = usual.size if found.data is None else prepared.input_size[-1]
        usual = dataclasses.replace(usual, size=size, mean=prepared.mean, std=prepared.std)
        whose = f"that of {'ImageNet' if found.data is None else found.data}"
    notes = found.notes
    if found.mean is None or found.std is None:
        notes += (
            f"{path.name} does not say how its images were normalised; assuming {whose}, mean "
            f"{usual.mean} and std {usual.std}.",
        )
    if found.dropped:
        notes += (f"{path.name} also holds {', '.join(found.dropped)}, which is not used.",)
    digest = sha256(path)
    known = STARTING_WEIGHTS.get(digest)
    return Source(
        record=StartingWeights(
            name=name,
            sha256=digest,
            license=None if known is None else known.license,
            origin=found.format,
        ),
        path=path,
        state=backbone.state,
        timm_arch=backbone.timm_arch,
        model_args=backbone.model_args,
        cfg={"num_classes": 0},
        preprocessing=Preprocessing(
            size=found.size or usual.size,
            mean=found.mean or usual.mean,
            std=found.std or usual.std,
            interpolation=found.interpolation or usual.interpolation,
            assumed=whose if None in (found.size, found.mean, found.std) else "",
        ),
        projector=found.projector,
        notes=notes,
    )


def pretrained_cfg(name: str) -> dict[str, Any]:
    """Return timm's configuration of weights, or of a model's usual ones; empty if it has none."""
    cfg: Any = timm.get_pretrained_cfg(name)
    return {} if cfg is None else dict(cfg.to_dict())


def _preprocessing(cfg: Mapping[str, Any]) -> Preprocessing:
    usual = Preprocessing(size=224, mean=IMAGENET_DEFAULT_MEAN, std=IMAGENET_DEFAULT_STD)
    return Preprocessing(
        size=(cfg.get("input_size") or (3, usual.size, usual.size))[-1],
        mean=tuple(cfg.get("mean") or usual.mean),
        std=tuple(cfg.get("std") or usual.std),
        interpolation=cfg.get("interpolation") or usual.interpolation,
    )


def _json(path: Path) -> dict[str, Any]:
    try:
        return read_json(path)
    except ValueError as error:
        raise ModelFolderError(f"{path} is not a JSON object ({error}).") from error
