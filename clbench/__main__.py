"""The program `clbench`, also as `python -m clbench`."""

import signal
import sys


def main() -> None:
    """Import the command line and run it; an interrupt during the import is told in a line, as later ones are."""
    try:
        from clbench import cli
    except KeyboardInterrupt:
        print("clbench: interrupted.", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    cli.main()


if __name__ == "__main__":
    main()
