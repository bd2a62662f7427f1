"""Writes the model card (README.md) of a model folder."""

import os
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from cassle_zoo.augmentation.descriptors import DESCRIPTOR_COLUMNS, DescriptorLayout
from cassle_zoo.common.errors import ModelFolderError
from cassle_zoo.common.files import sha256
from cassle_zoo.hub.cards.citation import REPOSITORY, citation
from cassle_zoo.hub.cards.recorded import is_baseline
from cassle_zoo.hub.cards.results import TASK_TYPE, check_result, eval_results, results_section
from cassle_zoo.hub.cards.training import code_version, known_data, training_section
from cassle_zoo.specs import MODEL_SPECS, RANDOM_INIT, RAW_PIXELS
from cassle_zoo.store.folder import CARD_FILE, MODEL_FILE, read_config

CARD_REPO = "hf-hub:ORG/NAME"
"""Stands in a card for the repository's name, which `hub push` fills in."""


def write_card(folder: str | Path, results: Sequence[Mapping[str, Any]] = ()) -> Path:
    """Write the README.md of a model folder anew.

    Args:
        folder: The model folder.
        results: Recorded results of this model, and of baselines to stand beside them (the content
            of the JSON files).

    Returns:
        The path of README.md.

    Raises:
        ModelFolderError: If the folder is not a model folder, or a result is malformed or of another
            model.
    """
    folder = Path(folder)
    card = checked_card(folder, results)
    path = folder / CARD_FILE
    staged = path.with_name(f".{CARD_FILE}.{uuid.uuid4().hex}")
    try:
        staged.write_bytes(card.encode())
        os.replace(staged, path)
    finally:
        staged.unlink(missing_ok=True)
    return path


def checked_card(folder: Path, results: Sequence[Mapping[str, Any]]) -> str:
    """Return what the README.md of a model folder should be; see :func:`write_card`."""
    config = read_config(folder)
    found = sha256(folder / MODEL_FILE)
    for result in results:
        check_result(result)
        if is_baseline(result):
            continue
        measured = result["model"]["sha256"]
        if measured != found:
            raise ModelFolderError(
                f"a result was measured with weights of sha256 {measured}, but "
                f"{folder / MODEL_FILE} has {found}; evaluate the folder again."
            )
    return str(render_card(config, results=results))


def render_card(
    config: Mapping[str, Any], *, results: Sequence[Mapping[str, Any]] = ()
) -> ModelCard:
    """Build the model card.

    Args:
        config: Content of the folder's config.json.
        results: Recorded results of this model, and of baselines to stand beside them (the content
            of the JSON files). The baselines are raw pixels and the random initialisation of this
            architecture; others are left out, and those that were measured in another way.

    Returns:
        The card, its metrics in the metadata (`model-index`) and in the text.

    Raises:
        ModelFolderError: If a result is malformed.
    """
    for result in results:
        check_result(result)
    baselines = (RAW_PIXELS, RANDOM_INIT + config["architecture"])
    results = [r for r in results if not is_baseline(r) or r["model"]["name"] in baselines]
    own = config["cassle_zoo"]
    is_ours = own["projector"] is not None  # the others are backbones of foreign checkpoints
    data = ModelCardData(
        license=config["pretrained_cfg"].get("license", "unknown"),
        library_name="timm",
        pipeline_tag=TASK_TYPE,
        tags=[
            *("timm", TASK_TYPE, "self-supervised-learning"),
            *(["cassle"] * is_ours),
            own["method"],
        ],
        model_name=own["name"],
        eval_results=eval_results(results) or None,
    )
    sections = (
        _introduction(config),
        _usage(config),
        _projector(own),
        training_section(own),
        results_section(results),
        _limits(own),
        f"## Citation\n\n{citation(code_version(own))}" if is_ours else "",
    )
    text = "\n\n".join(section for section in sections if section)
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}\n")


def _is_conditioned(own: Mapping[str, Any]) -> bool:
    projector = own["projector"]
    return projector is not None and projector.get("conditioning") != "none"


def _introduction(config: Mapping[str, Any]) -> str:
    own = config["cassle_zoo"]
    channels, height, width = config["pretrained_cfg"]["input_size"]
    if own["projector"] is None:
        how = "converted from the checkpoint of other code; nothing is known of its projector"
    else:
        how = _what_conditioning_means(own)
    return (
        f"# {own['name']}\n\n"
        f"A `{config['architecture']}` image backbone, pretrained without labels by "
        f"{own['method']} ({how}). It maps {height}x{width} images with {channels} channels to "
        f"{config['num_features']} features and has no classifier."
    )


def _what_conditioning_means(own: Mapping[str, Any]) -> str:
    return (
        "CASSLE: the projector was given the parameters of each view's augmentation, so the "
        "features keep what ordinary self-supervised learning discards (colour, position, "
        "sharpness)"
        if _is_conditioned(own)
        else "the projector was not given the augmentation parameters: the baseline of CASSLE"
    )


def _usage(config: Mapping[str, Any]) -> str:
    name = config["cassle_zoo"]["name"]
    registered = f'  # or, by name: "{name}"' if _is_released(name) else ""
    return f"""\
## Use

`local-dir:DIR` in place of `{CARD_REPO}` loads a folder of these files. With timm alone:

```python
import timm
import torch
from PIL import Image

model = timm.create_model("{CARD_REPO}", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
with torch.inference_mode():
    features = model(transform(Image.open("image.png").convert("RGB")).unsqueeze(0))
print(features.shape)  # (1, {config["num_features"]})
```

With cassle_zoo, which reads folders of images and skips damaged files:

```sh
pip install git+{REPOSITORY}
```

```python
import cassle_zoo

result = cassle_zoo.extract_features("{CARD_REPO}", ["images/"]){registered}
```

`cassle-zoo hub verify {CARD_REPO}` recomputes the features that `reference.safetensors` holds."""


def _is_released(name: str) -> bool:
    return name in MODEL_SPECS and MODEL_SPECS[name].released


def _projector(own: Mapping[str, Any]) -> str:
    config = own["projector"]
    if config is None:
        return ""
    head = f"""\
## Projector

`projector.safetensors` holds the projector of the pretraining. Features do not need it.

```python
import cassle_zoo

projector = cassle_zoo.create_projector("{CARD_REPO}", pretrained=True).eval()
"""
    if not _is_conditioned(own):
        return head + "projections = projector(features)\n```"
    layout = DescriptorLayout(tuple(config["descriptors"]))
    meanings = [(name, text) for name in layout.names for text in DESCRIPTOR_COLUMNS[name]]
    rows = "\n".join(
        f"| {column} | `{name}` | {text} |" for column, (name, text) in enumerate(meanings)
    )
    return (
        f"{head}projections = projector(features, descriptors)  # descriptors: "
        f"(batch, {layout.width})\n```\n\n"
        f"Conditioning: `{config['conditioning']}` on what was done to each view:\n\n"
        f"| column | descriptor | meaning |\n|---|---|---|\n{rows}\n\n"
        "`range` is the upper minus the lower bound of that factor's or shift's interval; `color` "
        "and `color_diff` are 0 where the jitter was not applied. `cassle_zoo.augmentation.augment.describe` "
        "computes the numbers."
    )


def _limits(own: Mapping[str, Any]) -> str:
    data = known_data(own)
    lines = [] if data is None else [f"- {data.limits}"]
    lines.append("- Nothing is known about images unlike the training data; measure first.")
    if _is_conditioned(own):
        lines.append(
            "- Features react to colour, position and sharpness; for tasks that must ignore these, "
            "compare with the model trained without conditioning."
        )
    lines.append("- Not meant for recognising people or for decisions about them.")
    return "## Limits\n\n" + "\n".join(lines)
