"""`python -m polarity`, the command without its script."""

from polarity.cli import main

main()
