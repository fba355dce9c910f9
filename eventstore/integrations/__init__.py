"""Adapters to the libraries that services are built with; each needs the extra of its name."""
