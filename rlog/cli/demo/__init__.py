"""`rlog demo`: the main job on real processes and disks, the leader killed in the middle, verified.

command.py  options, cluster, exit status     run.py     produce, kill, restart, consume
source.py   the input                         verify.py  what came back, and the replicas
result.py   what was found                    show.py    how it is shown
"""

from rlog.cli.demo.command import command

__all__ = ["command"]
