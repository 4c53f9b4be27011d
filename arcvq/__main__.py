"""The command `arcvq` as `python -m arcvq`."""

from arcvq.cli import main

if __name__ == "__main__":
    main()
