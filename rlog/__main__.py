"""`python -m rlog` is the `rlog` command."""

from rlog.cli import main

if __name__ == "__main__":
    main(prog_name="rlog")
