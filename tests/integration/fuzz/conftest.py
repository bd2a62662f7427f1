"""How long to search: CASSLE_ZOO_FUZZ is the number of examples per test (`make stress`: many)."""

import os

from hypothesis import HealthCheck, settings

settings.register_profile(
    "fuzz",
    max_examples=int(os.environ.get("CASSLE_ZOO_FUZZ", "25")),
    deadline=None,
    # Each example writes its own file over the last one's.
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("fuzz")
