"""Checks of model cards that need no access to the Hub.

The Hub's own validator is a service. Checked here: that huggingface_hub can parse the card, that it
has the fields the Hub needs to show a model and its results, that it holds no token, and that it is
not damaged. Cards have no published hash, since people edit them.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

import yaml
from huggingface_hub import ModelCard, get_token

REQUIRED = ("license", "library_name", "pipeline_tag", "tags")

_MOST_ALIASES = 20  # in YAML; some dozens can stand for more values than the memory holds
_FRONT_MATTER = re.compile(r"\s*---\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|$)", re.DOTALL)
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufffd]")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})(.*)")
_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{30,}")


def card_problems(content: bytes) -> list[str]:
    """Return the problems of a model card.

    Args:
        content: Content of the file.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return [f"the card is not UTF-8 ({error.reason} at byte {error.start})"]
    problems = ["the card holds a token of the Hub; revoke it"] if holds_token(text) else []
    if _CONTROL.search(text):
        problems.append("the card holds control characters, so it is damaged")
    metadata_text = _FRONT_MATTER.match(text)
    if metadata_text is None:
        return [*problems, "the card has no metadata between two lines of '---'"]
    try:
        tokens = yaml.scan(metadata_text[1])
        if sum(isinstance(token, yaml.AliasToken) for token in tokens) > _MOST_ALIASES:
            return [*problems, f"the card's metadata has over {_MOST_ALIASES} aliases (*NAME)"]
        card: Any = ModelCard(text)
        again: Any = ModelCard(str(card))
    except Exception as error:  # the YAML reader's are not ValueErrors
        reason = " ".join(str(error).split())
        return [*problems, f"the card's metadata cannot be read ({type(error).__name__}: {reason})"]
    if not card.text.strip():
        problems.append("the card has no text")
    if _has_open_fence(card.text):
        problems.append("a block of code in the card has no end, so the card is cut off or damaged")
    problems += [f"the card's metadata says {key} twice" for key in _twice(metadata_text[1])]
    metadata = card.data.to_dict()
    problems += [f"the card's metadata lacks {key}" for key in REQUIRED if not metadata.get(key)]
    if again.data.to_dict() != metadata:
        problems.append("the card's metadata does not survive being read and written again")
    return problems + _results_problems(card)


def _results_problems(card: Any) -> list[str]:
    results = card.data.eval_results or []
    if results and not isinstance(card.data.model_name, str):
        return ["the card's model-index has no name"]
    return [
        f"the card's result {result.metric_name} of {result.dataset_name} is no finite number"
        for result in results
        if not isinstance(result.metric_value, int | float)
        or not math.isfinite(result.metric_value)
    ]


def _has_open_fence(text: str) -> bool:
    """Return whether a code block is left open (CommonMark, section 4.5)."""
    fence = ""
    for line in text.splitlines():
        match = _FENCE.fullmatch(line)
        if match is None:
            continue
        marks, rest = match.groups()
        if not fence:
            fence = marks
        elif marks.startswith(fence) and not rest.strip():
            fence = ""
    return bool(fence)


def _twice(text: str) -> list[str]:
    """Return the keys that occur twice in a YAML mapping: a reader sees only the last."""
    nodes: list[Any] = [yaml.compose(text, Loader=yaml.SafeLoader)]
    seen: set[int] = set()
    found = []
    while nodes:
        node = nodes.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
            found += sorted({key for key in keys if keys.count(key) > 1})
            nodes += [value for _, value in node.value]
        elif isinstance(node, yaml.SequenceNode):
            nodes += node.value
    return found


def forged_results(card: ModelCard, recorded: ModelCard) -> list[str]:
    """Return the results of a card, in metadata or tables, that differ from the recorded ones.

    Args:
        card: The card.
        recorded: The card as written from the recorded results; if it has none, nothing is checked.
    """
    expected, found = _metrics(recorded), _metrics(card)
    if not expected:
        return []
    rows = _rows(recorded.text)
    tasks = {task for task, _ in rows}
    wrong = {key for key, value in found.items() if expected.get(key) != value}
    wrong |= {
        key for key, row in _rows(card.text).items() if key[0] in tasks and rows.get(key) != row
    }
    return [f"{task} {metric} is not what eval/results recorded" for task, metric in sorted(wrong)]


def _metrics(card: ModelCard) -> Mapping[tuple[str, str], Any]:
    data: Any = card.data
    return {
        (str(result.dataset_config), str(result.metric_name)): result.metric_value
        for result in data.eval_results or []
    }


def _rows(text: str) -> Mapping[tuple[str, str], tuple[str, ...]]:
    """Return the table rows of three or more cells, by their first two."""
    lines = (line.strip() for line in text.splitlines())
    rows = [
        tuple(cell.strip() for cell in line.strip("|").split("|"))
        for line in lines
        if line.startswith("|")
    ]
    return {(row[0], row[1]): row for row in rows if len(row) > 2}


def holds_token(text: str) -> bool:
    """Return whether a text holds the user's token, or something that looks like one."""
    token = get_token()
    return bool(_TOKEN.search(text)) or bool(token and token in text)
