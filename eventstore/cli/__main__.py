"""`python -m eventstore.cli`: the command where its script is not on the path."""

from eventstore.cli import main

main()
