"""`pocketpipe ...` and `python -m pocketpipe ...`."""

from pocketpipe.cli import cli


def main() -> None:
    """Entry point of the console script."""
    cli(prog_name="pocketpipe")


if __name__ == "__main__":
    main()
