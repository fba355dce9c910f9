"""Reports the steps of the demo: each step at once for people, all steps at the end as JSON."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from eventstore.cli.output import console, print_json
from eventstore.errors import EventStoreError

__all__ = ["Narration", "require_promise"]


@dataclass
class Narration:
    """Prints each step of the demo as it happens, and collects the results for `--json`."""

    quiet: bool
    steps: list[dict[str, Any]] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)

    def step(self, name: str, text: str, **results: object) -> None:
        """
        Report one step.

        :param text: for people.
        :param results: for programs.
        """
        self.steps.append({"step": name, **results})
        if not self.quiet:
            console.print(f"\n[bold]{len(self.steps)}. {name}[/bold]\n   {text}")

    def end(self) -> None:
        """Print how long the demo took, or all steps as JSON."""
        seconds = round(time.monotonic() - self.started, 3)
        if self.quiet:
            print_json({"steps": self.steps, "seconds": seconds})
        else:
            console.print(
                f"\nThe demo took {seconds:.1f} seconds; its server and data are removed.\n"
                "Next: the tutorial in the documentation shows how to embed the store in a service."
            )


def require_promise(held: bool, failure: str) -> None:
    """
    Stop the demo if a promise of the store does not hold.

    :raises EventStoreError: the promise was broken, as `failure` says.
    """
    if not held:
        raise EventStoreError(f"the demo found a broken promise: {failure}")
