"""Entry point of the command `arcvq`, also as `python -m arcvq`."""

import sys


def main() -> None:
    """Run the command, or say in one sentence that it is not installed."""
    try:
        from arcvq.cli import main as command
    except ModuleNotFoundError as error:
        sys.exit(f"arcvq's command needs {error.name}, which comes with: pip install 'arcvq[kit]'")
    command()


if __name__ == "__main__":
    main()
