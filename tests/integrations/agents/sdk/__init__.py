"""The SDK's own published tests of sessions, run against ours: `just sdk-tests`."""
