"""One peer of hivemind that averages a tensor, as hivemind's own averaging benchmark does.

python hivemind_peer.py NUM_VALUES SEED GROUP_SIZE [ADDRESS ...]
"""

from __future__ import annotations

import json
import sys

import hivemind
import torch
from hivemind.averaging import DecentralizedAverager


def main(num_values: int, seed: int, group_size: int, addresses: list[str]) -> None:
    torch.set_num_threads(1)
    dht = hivemind.DHT(initial_peers=addresses, host_maddrs=["/ip4/127.0.0.1/tcp/0"], start=True)
    averager = DecentralizedAverager(
        [torch.zeros(num_values)],
        dht,
        prefix="values",
        target_group_size=group_size,
        # Without these a peer that dies is waited for without end.
        next_chunk_timeout=5.0,
        allreduce_timeout=60.0,
        start=True,
    )
    say({"addresses": [str(address) for address in dht.get_visible_maddrs()]})
    for line in sys.stdin:
        asked = json.loads(line)
        if asked["do"] == "change":
            with averager.get_tensors() as (values,):
                values.add_(
                    torch.randn(num_values, generator=torch.Generator().manual_seed(1000 * seed + asked["number"]))
                    * 1e-3
                )
            say({})
        elif asked["do"] == "step":
            group = averager.step(timeout=asked["timeout_s"])
            with averager.get_tensors() as (values,):
                say(
                    {
                        "group": 0 if group is None else len(group),
                        "sample": values[:: max(1, num_values // 64)].tolist(),
                    }
                )
        else:
            say({})


def say(answer: dict[str, object]) -> None:
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
