"""`python -m epcli` is `ep`."""

from epcli.cli import main

main()
