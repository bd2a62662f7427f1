"""The part of a model card that says how the weights were made."""

from collections.abc import Mapping
from typing import Any

from cassle_zoo.common.markdown import inline, shell_block
from cassle_zoo.specs import DATASETS, DatasetInfo
from cassle_zoo.version import __version__

_HOW_TO_GET_DATA: Mapping[str, str] = {
    "emoji64": """\
The data, `emoji64.tar`, is built from three npm packages:

```sh
npm pack emoji-datasource-google@16.0.0 emoji-datasource-twitter@16.0.0 \\
    @lobehub/fluent-emoji-3d@1.1.0
python -m cassle_zoo.data.emoji64_build *.tgz -o emoji64.tar
```""",
}
_OTHER_DATA = "`--data` takes a folder or tar of the images named above; no labels are read."


def code_version(own: Mapping[str, Any]) -> str:
    """Return the version of cassle_zoo that made the weights, or else this one."""
    return inline(own["training"].get("cassle_zoo", __version__))


def known_data(own: Mapping[str, Any]) -> DatasetInfo | None:
    """Return what the zoo knows about the data of the training, if it knows them."""
    return DATASETS.get(str(own["training"].get("data")))


def training_section(own: Mapping[str, Any]) -> str:
    """Write the section on the training.

    Args:
        own: What config.json holds under `cassle_zoo`.
    """
    training = own["training"]
    data = known_data(own)
    lines = []
    if data is None:
        lines.append(f"- Data: {inline(training.get('data') or 'not recorded')}")
        lines.append(f"- Licence of the data: {inline(training.get('data_license', 'unknown'))}")
    else:
        lines.append(f"- Data: {data.title}. {data.description}")
        lines.append(f"- Licence of the data: {data.license}.")
    code = f"cassle_zoo {code_version(own)}"
    if "source" in training:
        code = f"{inline(training['source'])}; converted by {code}"
    lines.append(f"- Code: {code}")
    lines += [
        f"- {key.replace('_', ' ').capitalize()}: {inline(value)}"
        for key, value in training.items()
        if key not in _SHOWN_APART and value is not None
    ]
    settings = "\n".join(
        f"- `{section}`: {settings_text(values)}"
        for section, values in training.get("config", {}).items()
    )
    return "\n\n".join(
        ["## Training", "\n".join(lines), _command(own)]
        + ([f"The settings, whether the recipe's or overridden:\n\n{settings}"] * bool(settings))
    )


def settings_text(values: Any) -> str:
    """Write a section of a training's settings on one line."""
    if isinstance(values, Mapping):
        values = ", ".join(f"{key}={value}" for key, value in values.items())
    return inline(values)


def _command(own: Mapping[str, Any]) -> str:
    training, data = own["training"], str(own["training"].get("data"))
    root = "emoji64.tar" if data == "emoji64" else "DATA"
    usual = f"cassle-zoo train {own['name']} --data {root} --out RUN"
    command = str(training.get("command", usual))
    shown = shell_block(command)
    if not command.startswith(("cassle-zoo train", "cassle-zoo reproduce")):
        return shown
    return f"{shown}\n\n{_HOW_TO_GET_DATA.get(data, _OTHER_DATA)}"


_SHOWN_APART = ("data", "data_license", "source", "cassle_zoo", "command", "config")
