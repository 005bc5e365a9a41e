"""Tests, by the part they test; see docs/testing.md."""
