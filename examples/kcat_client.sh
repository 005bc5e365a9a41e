#!/bin/sh
# kcat, a Kafka client for the shell: `sh examples/kcat_client.sh HOST:PORT`, topic `orders`.
set -eu

# What stands before the colon is the key. All replicas must have it on disk, and a retry must not write it twice.
printf '42:packed\n' | kcat -b "$1" -P -t orders -p 1 -K : -X acks=all -X enable.idempotence=true

# The last record of that partition.
kcat -b "$1" -C -t orders -p 1 -o -1 -e -q -f 'read back: %o %k %s\n'
