"""`python -m arcvq` does what the command `arcvq` does."""

from arcvq.cli import main

main()
