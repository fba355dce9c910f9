"""
How fast the store is, told as ratios: `uv run python -m benchmarks`.

Machines differ and are noisy; a single time says little. So each figure stands beside a floor that
does the same work with nothing of ours in it, on the same server, in the same minute, in turn with
it. The ratio is what our code costs, and it can be compared between machines and between releases.
"""
