"""rlog: a replicated log that every Python service can embed."""

__version__ = "0.1.0"
