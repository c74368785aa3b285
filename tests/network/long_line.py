"""A line on which every packet takes its time: a TUN device that gives each packet back after a delay.

Run in the router's namespace with the device's name. It prints "ready", then takes the delay in seconds, one number a
line, on its standard input, and repeats it when it holds; a packet keeps the delay of its arrival.
"""

from __future__ import annotations

import fcntl
import os
import select
import struct
import sys
import time
from collections import deque

TUNSETIFF = 0x400454CA
IFF_TUN, IFF_NO_PI = 0x0001, 0x1000
MAX_PACKETS = 20_000
"""Waiting at most, as a router's buffer; what comes beyond is lost."""


def main(name: str) -> None:
    line = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(line, TUNSETIFF, struct.pack("16sH", name.encode(), IFF_TUN | IFF_NO_PI))
    waiting: deque[tuple[float, bytes]] = deque()
    delay_s, control = 0.0, b""
    print("ready", flush=True)  # noqa: T201
    while True:
        pause_s = max(0.0, waiting[0][0] - time.monotonic()) if waiting else None
        ready, _, _ = select.select([line, 0], [], [], pause_s)
        if 0 in ready:
            data = os.read(0, 4096)
            if not data:
                return
            *complete, control = (control + data).split(b"\n")
            for text in complete:
                delay_s = float(text)
                print(text.decode(), flush=True)  # noqa: T201
        if line in ready and len(waiting) < MAX_PACKETS:
            waiting.append((time.monotonic() + delay_s, os.read(line, 65_536)))
        now_s = time.monotonic()
        while waiting and waiting[0][0] <= now_s:
            os.write(line, waiting.popleft()[1])


if __name__ == "__main__":
    main(sys.argv[1])
