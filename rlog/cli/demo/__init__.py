"""`rlog demo`: the main job on real processes and disks, the leader killed in the middle, verified."""

from rlog.cli.demo.command import command

__all__ = ["command"]
