"""What the doctor says on hosts whose network has one fault each."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from spikemesh.cli.demo.swarm import Swarm
from tests.hang import HANG_S
from tests.network.lab import PUBLIC_PORT, Host, Lab, both_ways, run
from tests.volunteers.crew import Crewman
from tests.volunteers.join import found_cheap_run

NO_UDP_OUT = "table ip wall { chain out { type filter hook output priority filter; meta l4proto udp drop; }\n}\n"


def look(host: Host, ticket: str, folder: Path) -> tuple[int, dict[str, dict[str, Any]]]:
    command = [*host.prefix, sys.executable, "-m", "spikemesh", "doctor", ticket, "--folder", str(folder), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANG_S)
    return done.returncode, {finding["name"]: finding for finding in json.loads(done.stdout)["findings"]}


def test_it_tells_nat_from_a_cut_from_a_firewall_from_no_route(lab: Lab, tmp_path: Path) -> None:
    outside, home = lab.host("outside"), lab.host("home", nat=True)
    member = Crewman(tmp_path / "volunteer", ["--bind", f"0.0.0.0:{PUBLIC_PORT}"], prefix=outside.prefix)
    found_cheap_run(member.folder.path)
    with Swarm([member]):
        member.start(str(member.folder.path))
        ticket = member.wait_for_ticket()
        code, found = look(home, ticket, tmp_path / "new")
        assert code == 0 and found["peers"]["state"] == "ok"
        assert found["reachable"]["state"] == "note" and "behind NAT" in found["reachable"]["seen"]

        def trouble() -> str:
            code, found = look(home, ticket, tmp_path / "new")
            assert code == 4 and found["peers"]["state"] == "wrong"
            (peer,) = (finding for name, finding in found.items() if name.startswith("peer "))
            return str(peer["seen"])

        lab.weather(cut=both_ways([home], [outside]))
        assert "no answer" in trouble()
        lab.weather()
        run("ip", "netns", "exec", home.namespace, "nft", "-f", "-", stdin=NO_UDP_OUT)
        assert "a firewall on this machine forbids UDP" in trouble()
        run("ip", "netns", "exec", home.namespace, "nft", "flush", "ruleset")
        run("ip", "-n", home.namespace, "route", "del", "default")
        assert "no route" in trouble()
