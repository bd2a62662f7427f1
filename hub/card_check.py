"""Checks a model card as far as that is possible without the Hub.

The Hub's own validator is a service; what is checked here is what huggingface_hub parses, the
fields that the Hub needs to show a model and its results, and that the card holds no token.
"""

import math
import re
from typing import Any

from huggingface_hub import ModelCard, get_token

REQUIRED = ("license", "library_name", "pipeline_tag", "tags")

_FRONT_MATTER = re.compile(r"\s*---\r?\n.*?\r?\n---[ \t]*(?:\r?\n|$)", re.DOTALL)
_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{30,}")


def card_problems(content: bytes) -> list[str]:
    """Return what is wrong with a model card; empty if nothing is.

    Args:
        content: The file.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return [f"the card is not UTF-8 ({error.reason} at byte {error.start})"]
    problems = ["the card holds a token of the Hub; revoke it"] if holds_token(text) else []
    if not _FRONT_MATTER.match(text):
        return [*problems, "the card has no metadata between two lines of '---'"]
    try:
        card: Any = ModelCard(text)
        again: Any = ModelCard(str(card))
    except Exception as error:  # those of the YAML reader are no ValueError
        reason = " ".join(str(error).split())
        return [*problems, f"the card's metadata cannot be read ({type(error).__name__}: {reason})"]
    if not card.text.strip():
        problems.append("the card has no text")
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


def holds_token(text: str) -> bool:
    """Tell whether a text holds the user's token, or something that looks like one."""
    token = get_token()
    return bool(_TOKEN.search(text)) or bool(token and token in text)
