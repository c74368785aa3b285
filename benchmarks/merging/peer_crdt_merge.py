"""Runs in the peers' environment: crdt-merge's weight average of safetensors files, read and written whole.

`peer_crdt_merge.py merge|crdt_merge OUT A B ...`; both are methods of its class, called as its README and docs do.
"""

import sys
from pathlib import Path

from crdt_merge.model import ModelMerge, ModelMergeSchema

method, out, *inputs = sys.argv[1:]
merger = ModelMerge(ModelMergeSchema({"default": "weight_average"}))
if method == "merge":
    from safetensors.torch import load_file, save_file

    merged = merger.merge([load_file(path) for path in inputs])
else:
    from safetensors.numpy import load_file, save_file

    names = [Path(path).stem for path in inputs]
    merged = merger.crdt_merge([load_file(path) for path in inputs], model_ids=names)
save_file(merged.tensor, out)
