"""`python -m rlog.testing`: see sweep.py."""

from rlog.testing.sweep import main

main()
