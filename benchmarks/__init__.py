"""
How fast the store is, as ratios: `uv run python -m benchmarks`.

Machines differ and are noisy, so a single time says little. Each figure therefore compares the
store with a floor: the same work without the store's code, on the same server, in turn with it. The
ratio of the two times is the cost of the store's code, and it can be compared between machines and
between releases.
"""
