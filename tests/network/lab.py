"""Hosts of their own in one machine: Linux network namespaces behind a router, with NAT, loss, delay and cuts.

    middle ──── internet ──── gateway ──── left         a public host, and one behind NAT
    198.18.1.2                198.18.2.2   192.168.1.2

Everything is the kernel's own: routing, conntrack, masquerading, and nftables' `numgen` for loss. Only delay is made
by a process of ours, `long_line.py`: the router sends each packet through its TUN device, and gets it back later.
That way the lab also works on kernels that are built without `sch_netem`.

All homes behind NAT use the same private addresses, as real ones do: to dial what a stranger behind another NAT calls
its address reaches somebody at home, or nobody. Their NAT picks another port for each destination and lets nothing in
that was not asked for.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Collection, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from tests.hang import HANG_S

LINE = "line"
LINE_TABLE = "100"
PUBLIC_PORT = 4433

_NAT = """
table ip nat {
  chain out { type nat hook postrouting priority srcnat; oifname "wan" masquerade fully-random; }
  chain through {
    type filter hook forward priority filter; policy drop;
    iifname "lan" accept
    ct state established,related accept
  }
}
"""

_FILTER = """
table ip weather {{}}
delete table ip weather
table ip weather {{
  chain through {{
    type filter hook forward priority filter; policy accept;
    oifname "{line}" accept
{rules}
  }}
}}
"""


def run(*command: str, stdin: str | None = None) -> str:
    """What a command prints; `RuntimeError` with what it says when it fails."""
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=HANG_S)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {(done.stderr or done.stdout).strip()}")
    return done.stdout


def missing() -> str | None:
    """What this machine lacks to run a lab, in words; None if nothing."""
    if sys.platform != "linux":
        return "needs Linux"
    for tool, package in (("ip", "iproute2"), ("nft", "nftables")):
        if shutil.which(tool) is None:
            return f"needs the command {tool}: install {package}"
    if not Path("/dev/net/tun").exists():
        return "needs /dev/net/tun"
    try:
        with Lab() as lab:
            lab.host("probe", nat=True)
            lab.weather(loss=0.5, delay_s=0.01)
    except (RuntimeError, OSError) as error:
        return f"cannot make network namespaces: {error}"
    return None


@dataclass
class Host:
    """A machine of the lab. `public` is the address that others see its packets come from."""

    name: str
    namespace: str
    public: str
    local: str
    gateway: str | None = None
    changes: int = 0

    @property
    def prefix(self) -> list[str]:
        """What to put before a command that is to run on this host."""
        return ["ip", "netns", "exec", self.namespace]

    @property
    def interface(self) -> str:
        return "lan" if self.gateway else "wan"


@dataclass
class Lab:
    """Use it in a `with` block: on the way out every namespace is gone, with whatever still runs in it."""

    hosts: dict[str, Host] = field(default_factory=dict)
    _num_labs: int = 0

    def __enter__(self) -> Lab:
        _sweep()
        Lab._num_labs += 1
        self._name = f"spikemesh-{os.getpid()}-{Lab._num_labs}"
        self._made = ExitStack()
        try:
            self._router = self._namespace("internet", forwards=True)
            self._line = subprocess.Popen(
                ["ip", "netns", "exec", self._router, sys.executable, Path(__file__).with_name("long_line.py"), LINE],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            self._made.callback(self._end_line)
            assert self._line.stdout is not None
            if self._line.stdout.readline() != "ready\n":
                raise RuntimeError("the long line cannot open its TUN device")
            run("ip", "-n", self._router, "link", "set", LINE, "up")
            run("ip", "-n", self._router, "route", "add", "default", "dev", LINE, "table", LINE_TABLE)
        except BaseException:
            self._made.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._made.close()

    def host(self, name: str, *, nat: bool = False) -> Host:
        """A new host: with a public address, or behind a NAT gateway of its own."""
        number = len(self.hosts) + 1
        public = f"198.18.{number}.2"
        namespace = self._namespace(name)
        edge = namespace
        if nat:
            edge = self._namespace(f"{name}-gw", forwards=True)
            _link(edge, "lan", "192.168.1.1", namespace, "lan", "192.168.1.2")
            run("ip", "-n", namespace, "route", "add", "default", "via", "192.168.1.1")
            run("ip", "netns", "exec", edge, "nft", "-f", "-", stdin=_NAT)
        _link(self._router, f"to{number}", f"198.18.{number}.1", edge, "wan", public)
        run("ip", "-n", edge, "route", "add", "default", "via", f"198.18.{number}.1")
        host = Host(name, namespace, public, "192.168.1.2" if nat else public, edge if nat else None)
        self.hosts[name] = host
        return host

    def weather(self, *, loss: float = 0.0, delay_s: float = 0.0, cut: Collection[tuple[Host, Host]] = ()) -> None:
        """From now on: the share of packets lost, the delay of each direction, and (from, to) pairs that are cut."""
        rules = [f"    ip saddr {a.public} ip daddr {b.public} counter drop" for a, b in cut]
        if loss:
            rules.append(f"    numgen random mod 1000 < {round(loss * 1000)} counter drop")
        text = _FILTER.format(line=LINE, rules="\n".join(rules))
        run("ip", "netns", "exec", self._router, "nft", "-f", "-", stdin=text)
        assert self._line.stdin is not None and self._line.stdout is not None
        self._line.stdin.write(f"{delay_s}\n")
        self._line.stdin.flush()
        assert self._line.stdout.readline() == f"{delay_s}\n", "the long line ended"
        rules_now = run("ip", "-n", self._router, "rule", "show")
        for number in range(1, len(self.hosts) + 1):
            held = f"iif to{number} " in rules_now
            if held != (delay_s > 0):
                verb = "del" if held else "add"
                run("ip", "-n", self._router, "rule", verb, "iif", f"to{number}", "lookup", LINE_TABLE)

    def num_delayed(self) -> int:
        """Packets that the long line has taken so far."""
        counter = f"/sys/class/net/{LINE}/statistics/tx_packets"
        return int(run("ip", "netns", "exec", self._router, "cat", counter))

    def namespaces(self) -> list[str]:
        return [line.split()[0] for line in run("ip", "netns", "list").splitlines() if line.startswith(self._name)]

    def change_address(self, host: Host) -> None:
        """As if the machine were carried to another network: other addresses, and its gateway's memory is gone."""
        host.changes += 1
        if host.gateway:
            local = f"192.168.1.{2 + host.changes}"
            _readdress(host.namespace, "lan", host.local, local)
            run("ip", "-n", host.namespace, "route", "replace", "default", "via", "192.168.1.1")
            host.local = local
        edge = host.gateway or host.namespace
        network = host.public.rpartition(".")[0]
        public = f"{network}.{2 + host.changes}"
        _readdress(edge, "wan", host.public, public)
        run("ip", "-n", edge, "route", "replace", "default", "via", f"{network}.1")
        host.public = public
        host.local = host.local if host.gateway else public

    def _namespace(self, name: str, *, forwards: bool = False) -> str:
        namespace = f"{self._name}-{name}"
        run("ip", "netns", "add", namespace)
        self._made.callback(_delete_namespace, namespace)
        run("ip", "-n", namespace, "link", "set", "lo", "up")
        inside = ("ip", "netns", "exec", namespace, "sysctl", "-q", "-w")
        run(*inside, "net.ipv4.conf.all.rp_filter=0", "net.ipv4.conf.default.rp_filter=0")
        if forwards:
            run(*inside, "net.ipv4.ip_forward=1")
        return namespace

    def _end_line(self) -> None:
        self._line.kill()
        self._line.wait()
        for pipe in (self._line.stdin, self._line.stdout):
            assert pipe is not None
            pipe.close()


def both_ways(one: Iterable[Host], other: Iterable[Host]) -> list[tuple[Host, Host]]:
    """The pairs that a partition cuts."""
    return [pair for a in one for b in other for pair in ((a, b), (b, a))]


def _link(space: str, name: str, address: str, other_space: str, other_name: str, other_address: str) -> None:
    run("ip", "link", "add", name, "netns", space, "type", "veth", "peer", "name", other_name, "netns", other_space)
    for where, interface, own in ((space, name, address), (other_space, other_name, other_address)):
        run("ip", "-n", where, "address", "add", f"{own}/24", "dev", interface)
        run("ip", "-n", where, "link", "set", interface, "up")


def _readdress(namespace: str, interface: str, old: str, new: str) -> None:
    run("ip", "-n", namespace, "address", "del", f"{old}/24", "dev", interface)
    run("ip", "-n", namespace, "address", "add", f"{new}/24", "dev", interface)


def _sweep() -> None:
    """Remove what a killed test process left: its number is in the names."""
    for line in run("ip", "netns", "list").splitlines():
        name = line.split()[0]
        if name.startswith("spikemesh-") and not Path("/proc", name.split("-")[1]).exists():
            _delete_namespace(name)


def _delete_namespace(namespace: str) -> None:
    """First what still runs there: a process would keep it alive without a name."""
    for pid in run("ip", "netns", "pids", namespace).split():
        subprocess.run(["kill", "-9", pid], capture_output=True)
    run("ip", "netns", "del", namespace)
