"""How fast this core reads and writes memory, by a plain loop that the argument names: `copy` or `add`.

Four arrays as large as those of `lif_worker`, so that caches hold as much of them. Bytes count as the program sees
them: what it reads and what it writes.
"""

from __future__ import annotations

import sys

import numpy as np
import torch
from answering import answer

NUM_VALUES = 8 * 4096 * 512


def main() -> None:
    torch.set_num_threads(1)
    first, second, third, fourth = (torch.from_numpy(np.ones(NUM_VALUES, np.float32)) for _ in range(4))

    def copy() -> dict[str, int]:
        np.copyto(third.numpy(), first.numpy())
        np.copyto(fourth.numpy(), second.numpy())
        return {"bytes": 4 * first.nbytes}

    def add() -> dict[str, int]:
        torch.add(first, second, alpha=2.0, out=third)
        torch.add(second, third, alpha=2.0, out=fourth)
        return {"bytes": 6 * first.nbytes}

    answer({"copy": copy, "add": add}[sys.argv[1]], {})


if __name__ == "__main__":
    main()
