"""Why a node cannot listen: which setting, which address, and who has it. Asked after the fact only."""

import errno
import socket
from contextlib import suppress
from pathlib import Path

from rlog.config import NodeConfig

LISTENING = "0A"
MENDS = {
    errno.EADDRNOTAVAIL: "it is no address of this machine: name one that is",
    errno.EACCES: "only root may listen below port 1024: choose a port above",
}


def why_not_listening(config: NodeConfig, error: OSError) -> str:
    """A message for the OSError that starting a node raised: every setting that names a bad address."""
    addresses = {"listen": (config.listen_host, config.listen_port)}
    if config.peers:
        addresses["peer"] = (config.peer_host, config.peer_port)
    if config.admin_port is not None:
        addresses["admin"] = (config.admin_host, config.admin_port)
    complaints = [
        f"cannot listen on {name}_host = {host!r}, {name}_port = {port}: {complaint}"
        for name, (host, port) in addresses.items()
        if (complaint := _complaint(f"{name}_port", host, port))
    ]
    return "; ".join(complaints) or f"cannot start: {error.strerror or error}"


def _complaint(setting: str, host: str, port: int) -> str:
    """Empty when the address could be listened on."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except socket.gaierror as error:
        return f"the host is not known ({error.strerror}): name an address of this machine"
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
            probe.listen()
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return f"port {port} is in use by {listener_of(port)}: end that, or set another {setting}"
            return MENDS.get(error.errno or 0, error.strerror or str(error))
    return ""


def listener_of(port: int) -> str:
    """ "pid 71 (nginx)", or "another process" when that cannot be seen: it is another user's."""
    inodes = set()
    for table in ("tcp", "tcp6"):
        with suppress(FileNotFoundError):  # a kernel without IPv6
            for line in Path("/proc/net", table).read_text().splitlines()[1:]:
                columns = line.split()
                if columns[3] == LISTENING and int(columns[1].rpartition(":")[2], 16) == port:
                    inodes.add(f"socket:[{columns[9]}]")
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended meanwhile, or is another user's
            if any(str(descriptor.readlink()) in inodes for descriptor in (process / "fd").iterdir()):
                return f"pid {process.name} ({(process / 'comm').read_text().strip()})"
    return "another process"
