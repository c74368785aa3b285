"""Below every room with files: whole writes, the system's errors in our words, the header of tensor files."""

from spikemesh.files.whole import write_file_atomic

__all__ = ["write_file_atomic"]
