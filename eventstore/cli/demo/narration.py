"""The telling of the demo: each step as it happens for people, all of them at the end as JSON."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from eventstore.cli.output import console, print_json
from eventstore.errors import EventStoreError

__all__ = ["Narration", "require_promise"]


@dataclass
class Narration:
    """Tells each step as it happens, and keeps what was seen for `--json`."""

    quiet: bool
    steps: list[dict[str, Any]] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)

    def step(self, name: str, told: str, **seen: object) -> None:
        """Tell one step."""
        self.steps.append({"step": name, **seen})
        if not self.quiet:
            console.print(f"\n[bold]{len(self.steps)}. {name}[/bold]\n   {told}")

    def end(self) -> None:
        """Tell how long it took, or print all steps as JSON."""
        seconds = round(time.monotonic() - self.started, 3)
        if self.quiet:
            print_json({"steps": self.steps, "seconds": seconds})
        else:
            console.print(
                f"\nAll of this took {seconds:.1f} seconds; the server and its data are gone.\n"
                "Next: docs/tutorial.md embeds the store in a service with ten lines."
            )


def require_promise(held: bool, broken: str) -> None:
    """Stop the story where a promise was not kept."""
    if not held:
        raise EventStoreError(f"the demo found a broken promise: {broken}")
