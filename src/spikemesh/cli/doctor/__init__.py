"""`spikemesh doctor`: what keeps this node from taking part, in plain words, and what to do.

verb      which checks run, in which order, and how they are shown
finding   what one check says
machine   version, kernels, memory, disk, clock
network   sockets, NAT, peers
"""

from spikemesh.cli.doctor.verb import doctor

__all__ = ["doctor"]
