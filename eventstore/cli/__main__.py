"""`python -m eventstore.cli` runs the command where its script is not on the path."""

from eventstore.cli import main

main()
