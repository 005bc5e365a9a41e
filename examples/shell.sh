#!/bin/sh
# Lines in, records out, from a shell: `sh examples/shell.sh HOST:PORT`, topic `orders`.
set -eu

rlog=${RLOG:-.venv/bin/rlog}
export RLOG_BOOTSTRAP="$1"

# What stands before the colon is the key; the same key goes to the same partition.
printf 'ann:paid 10\nbob:paid 20\nann:sent\n' | "$rlog" produce orders --key-separator :

# From the first record of the last hour on, with keys and times; `produce --json` reads what this prints.
"$rlog" consume orders --json --from -1h --until end --count 3

# Values alone, of one partition.
"$rlog" consume orders --partition 1 --until end --count 5

"$rlog" status
