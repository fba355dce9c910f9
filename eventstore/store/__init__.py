"""The facade: what a service calls. `eventstore` itself re-exports it."""
