"""spikemesh: train one large sparse spiking language model together, without a cluster or a server."""

__version__ = "0.1.0"
