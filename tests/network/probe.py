"""One end of a measurement over UDP: `probe.py answer PORT` repeats what comes, with the address it came from;
`probe.py ask ADDRESS PORT COUNT` prints how many of COUNT answers came, the fastest round trip in seconds, and the
addresses the other side saw."""

from __future__ import annotations

import socket
import sys
import time

GAP_S, PATIENCE_S = 0.002, 3.0


def answer(port: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.bind(("0.0.0.0", port))
        print("ready", flush=True)  # noqa: T201
        while True:
            data, sender = listener.recvfrom(2048)
            listener.sendto(data + b" " + sender[0].encode(), sender)


def ask(address: str, port: int, count: int) -> None:
    round_trips_s: list[float] = []
    seen: set[str] = set()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.settimeout(GAP_S)
        sent_s: dict[int, float] = {}
        last_s = time.monotonic()
        while len(sent_s) < count or (len(round_trips_s) < count and time.monotonic() < last_s + PATIENCE_S):
            if len(sent_s) < count:
                last_s = sent_s[len(sent_s)] = time.monotonic()
                asking.sendto(b"%d" % (len(sent_s) - 1), (address, port))
            try:
                number, source = asking.recv(2048).split()
            except OSError:  # nothing came, or the system says that the other end is not there
                continue
            round_trips_s.append(time.monotonic() - sent_s[int(number)])
            seen.add(source.decode())
    print(len(round_trips_s), min(round_trips_s, default=0.0), *sorted(seen))  # noqa: T201


if __name__ == "__main__":
    if sys.argv[1] == "ask":
        ask(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
    else:
        answer(int(sys.argv[2]))
