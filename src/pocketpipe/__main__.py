"""`pocketpipe ...` and `python -m pocketpipe ...`."""

import os

from pocketpipe import machine


def main() -> None:
    """Entry point of the console script."""
    logging = machine.project_root() / "conf" / "logging.yml"
    if logging.is_file():  # else Kedro, started below the project's root, tells of its own before each answer
        os.environ.setdefault("KEDRO_LOGGING_CONFIG", str(logging))
    from pocketpipe.cli import cli

    cli(prog_name="pocketpipe")


if __name__ == "__main__":
    main()
