"""How many random examples the property tests try, and which."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

FACTOR = int(os.environ.get("EVENTSTORE_TEST_EXAMPLES", "1"))

# A plain run tries the same examples each time, so that it fails for what was changed and for
# nothing else; `just explore` tries new ones.
settings.register_profile(
    "project",
    derandomize=FACTOR == 1,
    deadline=None,  # the first example of a process fills the server's caches
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("project")


def examples(count: int, *, stateful_step_count: int = 50) -> settings:
    """Return the settings of a property test; `just explore` multiplies the number of examples."""
    return settings(max_examples=count * FACTOR, stateful_step_count=stateful_step_count)
