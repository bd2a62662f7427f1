"""Results as evaluations record them."""

from typing import Any

from cassle_zoo.records import MeasuredData, MeasuredModel, Result


def make_result(
    name: str = "model", sha256: str | None = None, data_sha256: str = "d" * 64, **changes: Any
) -> Result:
    """Return the result of a model on emoji64, with other fields as given."""
    values: dict[str, Any] = {
        "task": "emoji64",
        "protocol": {"k-NN": "k=20"},
        "metrics": {"flags": {"recall@1": 0.5}},
        "seed": 0,
        "versions": {"torch": "2.0"},
        "command": f"cassle-zoo eval emoji64 {name} --data emoji64.tar",
        "seconds": {"total": 1.5},
        "created": "2025-01-01T00:00:00+00:00",
    }
    return Result(
        model=MeasuredModel(name=name, sha256=sha256),
        data=MeasuredData(name="emoji64", sha256=data_sha256),
        **(values | changes),
    )
