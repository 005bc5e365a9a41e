"""What tests on real processes share: `from tests.harness import running_cluster`.

Each node is a process of its own that is started, killed, paused and ended by its process id, through
`rlog.cli.local_cluster.LocalCluster`; whatever a test does, no node outlives it.
"""

from tests.harness.processes import node_pids, running_cluster, wait_for

__all__ = ["node_pids", "running_cluster", "wait_for"]
