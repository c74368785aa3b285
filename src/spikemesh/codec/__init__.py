"""Values to bytes and back. Every format has one `decode` that checks everything before anything is used."""

from spikemesh.codec.delta import MAX_COORDINATES, QuantisedDelta, decode_delta, encode_delta, max_delta_bytes
from spikemesh.codec.quantiser import DENSE, TABLES, TOP_K, Table, dequantise, quantise, select_top_k

__all__ = [
    "DENSE",
    "MAX_COORDINATES",
    "TABLES",
    "TOP_K",
    "QuantisedDelta",
    "Table",
    "decode_delta",
    "dequantise",
    "encode_delta",
    "max_delta_bytes",
    "quantise",
    "select_top_k",
]
