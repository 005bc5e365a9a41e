"""The `rlog` command: one file per subcommand, main.py for the group, and what they share:

options.py      options that several have            session.py      the loop and errors of cluster commands
exits.py        errors as exit statuses              interrupts.py   Ctrl-C and SIGTERM
input.py        input in pieces                      record_json.py  a record as JSON
places.py       `--from` and `--until`               progress.py     progress bars
local_cluster.py  node processes on this machine     ports.py        why a node cannot listen
describe.py     asking one node how it is            offline/        data directories from outside

Exit statuses, the same for every command:

* 0    done. `serve` and `dev` also end with 0 after SIGTERM or Ctrl-C: that is how they are meant to end.
* 1    it failed: a check did not hold, a record was not acknowledged, `verify` found something that a start
       makes anew, a node ended by itself, a partition has no leader.
* 2    the command line or the configuration is wrong, or there is no such topic or partition; nothing was
       served, read or written, though a node may have made its data directory.
* 3    no node could be reached, or none was ready in time.
* 4    the data directory was refused or is damaged, or the disk failed.
* 5    standard output could not be written, on a full disk for instance: what was to be said is lost. That
       its reader has enough (`| head`) is no failure.
* 130  ended by Ctrl-C before it was done; what was done is printed.
"""

from rlog.cli.main import main

__all__ = ["main"]
