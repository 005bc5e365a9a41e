"""`python -m rlog` is the `rlog` command."""

import sys

INTERRUPTED = 130


def command() -> None:
    """The whole process, until it exits. Loads what it needs only here, so that Ctrl-C is heard meanwhile."""
    try:
        from rlog.cli import main

        main(prog_name="rlog")
    except KeyboardInterrupt:
        sys.stderr.write("rlog: interrupted\n")
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    command()
