"""Provenance in a model folder: derived from the run, and checked against it."""

from collections.abc import Mapping
from typing import Any

from cassle_zoo.records import training_settings
from cassle_zoo.specs import BACKBONES, DATASETS, MODEL_SPECS, STARTING_WEIGHTS, DatasetInfo
from cassle_zoo.zoo.names import contradictions, dataset_of

UNKNOWN_LICENSE = "unknown"

Training = Mapping[str, Any]
"""`training` of a run's export or a config.json."""


def data_of(name: str, training: Training) -> str:
    """Return the data of a training: its name in :data:`DATASETS` if it has one, else in words.

    Args:
        name: Full name of the model; its tag decides only where the settings say nothing.
        training: As in :class:`cassle_zoo.records.RunExport`.
    """
    tag = name.partition(".")[2]
    settings = _settings(training, "data")
    if "dataset" not in settings:
        return tag
    reader = str(settings["dataset"])
    known = dataset_of(reader) or (tag if tag in DATASETS and DATASETS[tag].reader == "" else None)
    if known is not None and not _is_other_data(training, DATASETS[known]):
        return known
    count = _images(training).get("count")
    number = "" if count is None else f" ({count:,} images)"
    if known is not None and reader:
        return f"images in the form of {known}, but not the published ones{number}"
    return f"{settings.get('root') or reader or 'images of a folder'}{number}"


def license_of(name: str, training: Training) -> str:
    """Return the licence of weights for which none is stated.

    It is the registry's for a finished run of a model of the registry, if the images have the
    published hash, and the training started as the registry says; else it is unknown.

    Args:
        name: Full name of the model.
        training: As in :class:`cassle_zoo.records.RunExport`.
    """
    spec = MODEL_SPECS.get(name)
    init = training.get("init")
    started_from = init.get("sha256", "") if init else None
    if spec is None or "total_steps" in training or started_from != spec.init:
        return UNKNOWN_LICENSE
    published = DATASETS[spec.data].sha256
    found = training.get("images", {}).get("sha256")
    return spec.license if published is not None and found == published else UNKNOWN_LICENSE


def with_licenses(training: Training) -> Training:
    """Return what a run recorded, with the licence of its starting weights where that is known."""
    init = training.get("init")
    if not init or init["license"] is not None:
        return training
    known = STARTING_WEIGHTS.get(init["sha256"])
    if known is None:
        return training
    return {**training, "init": {**init, "license": known.license}}


def problems(config: Mapping[str, Any]) -> list[str]:
    """Return what a config.json says wrongly about its model, as sentences without full stops.

    Args:
        config: Its content, checked by :func:`cassle_zoo.store.folder.parse_config`.
    """
    own = config["cassle_zoo"]
    training, projector = own["training"], own["projector"]
    found = contradictions(
        own["name"],
        timm_arch=config["architecture"],
        method=own["method"],
        conditioned=None if projector is None else projector.get("conditioning") != "none",
        reader=_settings(training, "data").get("dataset"),
    )
    arch = training_settings(training).get("arch")
    if arch is not None:
        known = {spec.name: spec.timm_arch for spec in MODEL_SPECS.values()}
        known |= {name: backbone.timm_arch for name, backbone in BACKBONES.items()}
        expected = known.get(arch, arch)
        if expected != config["architecture"]:
            found.append(
                f"it was trained as {arch}, but the architecture is {config['architecture']}"
            )
    stated = DATASETS.get(str(training.get("data")))
    if stated is not None and (why := _is_other_data(training, stated)):
        found.append(f"the data is said to be {stated.title}, but {why}")
    return found


def _is_other_data(training: Training, data: DatasetInfo) -> str:
    """Say why a training was not on a known dataset; empty if nothing speaks against it."""
    reader = _settings(training, "data").get("dataset")
    if reader is not None and data.reader not in ("", reader):
        return f"the images were {reader or 'a folder or archive'}"
    images = _images(training)
    if not images:  # the steps of a converted checkpoint may be those of an unfinished run
        return "" if "source" in training else _are_other_steps(training, data)
    if images["count"] != data.images:
        return f"there were {images['count']:,} images and not {data.images:,}"
    if None not in (data.sha256, images.get("sha256")) and images["sha256"] != data.sha256:
        return f"the images have sha256 {images['sha256']} and not {data.sha256}"
    return ""


def _are_other_steps(training: Training, data: DatasetInfo) -> str:
    """Compare the number of steps, for a training that did not record its images."""
    optim, steps = _settings(training, "optim"), training.get("steps")
    epochs, batch = optim.get("epochs"), optim.get("batch_size")
    if not (isinstance(steps, int) and isinstance(epochs, int) and isinstance(batch, int)):
        return ""
    expected = data.images // batch
    if steps == epochs * expected:
        return ""
    return f"an epoch of {steps / epochs:g} steps of {batch} images is not one of {data.images:,}"


def _images(training: Training) -> Mapping[str, Any]:
    """Return what is recorded of the images; of a converted run it is among the settings."""
    return training.get("images") or _settings(training, "images")


def _settings(training: Training, group: str) -> Mapping[str, Any]:
    """Return a group of a training's settings; empty if not written by cassle-zoo."""
    found = training_settings(training).get(group)
    return found if isinstance(found, Mapping) else {}
