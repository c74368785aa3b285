"""`lif_forward` and `lif_backward`: leaky membranes along the token axis, potentials in registers.

    u[t] = leak * v[t-1] + x[t];  s[t] = 1 if u[t] >= threshold else 0;  v[t] = u[t] * (1 - s[t])

Compiled code only. The loops in `snn/functional.py` are its twin, with the gradient's equations: the same spikes and
potentials from both, to the bit, where torch and the processor fuse multiply and add.

Shapes: L token, B batch, N neuron. Arrays are float32 and lie as [L, B, N] or as [N, L, B], all alike, so [B, N] ones
as [B, N] or as [N, B]. Backward keeps nothing but the currents: it runs the neurons again.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from spikemesh.kernels.dispatch import native

Floats = npt.NDArray[np.float32]


def lif_forward(
    x: Floats,
    v0: Floats | None,
    leak: Floats,
    threshold: Floats | None,
    *,
    v: Floats,
    y: Floats | None = None,
    bits: npt.NDArray[np.uint8] | None = None,
    num_threads: int = 1,
) -> None:
    """Currents x [L, B, N] from potentials v0 [B, N] on -> spikes y [L, B, N], last potentials v [B, N].

    Without v0 neurons start at rest. `leak`, `threshold` are [N]. Without a threshold nothing fires, and y is the
    potentials. Instead of y the spikes go into `bits` (see `spikes`) if arrays lie as [N, L, B].
    """
    lies = _Lies(x, as_features=bits is not None)
    native.lif_forward(
        lies.flat(x),
        lies.maybe_flat(v0),
        leak,
        threshold,
        lies.maybe_flat(y),
        bits,
        lies.flat(v),
        *lies.arguments,
        num_threads,
    )


def lif_backward(
    x: Floats,
    v0: Floats | None,
    leak: Floats,
    threshold: Floats | None,
    sharpness: float,
    grad_y: Floats,
    grad_v: Floats | None,
    *,
    grad_x: Floats,
    grad_v0: Floats | None,
    grad_leak: Floats,
    grad_threshold: Floats | None,
    num_threads: int = 1,
) -> None:
    """The gradients of what `lif_forward` was given, from those of y and v (None: zero).

    `sharpness` is of the arctangent surrogate. The gradients of leak and threshold are summed in double precision, in
    an order that does not depend on `num_threads`.
    """
    lies = _Lies(x)
    native.lif_backward(
        lies.flat(x),
        lies.maybe_flat(v0),
        leak,
        threshold,
        sharpness,
        lies.flat(grad_y),
        lies.maybe_flat(grad_v),
        lies.flat(grad_x),
        lies.maybe_flat(grad_v0),
        grad_leak,
        grad_threshold,
        *lies.arguments,
        num_threads,
    )


class _Lies:
    """How [L, B, N] arrays lie in memory: as they are, or as [N, L, B]."""

    def __init__(self, x: Floats, *, as_features: bool = False) -> None:
        self.feature_major = as_features or not x.flags.c_contiguous
        self.arguments = (x.shape[0], x.shape[1], self.feature_major)

    def maybe_flat(self, array: Floats | None) -> Floats | None:
        return None if array is None else self.flat(array)

    def flat(self, array: Floats) -> Floats:
        view = array
        if self.feature_major:
            view = array.transpose(2, 0, 1) if array.ndim == 3 else array.T
        if not view.flags.c_contiguous:
            raise ValueError(
                f"expected arrays that lie alike, as [L, B, N] or as [N, L, B]; got strides {array.strides}"
            )
        return view.reshape(-1)
