"""What a merge says of rows that were matched by their tokens."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from spikemesh.cli.names import shown, some

if TYPE_CHECKING:
    from spikemesh.checkpoint.rows import MatchedRows


def rows_said(matched: MatchedRows) -> Iterator[str]:
    """Whose tokens the rows are, and which are not among them."""
    padding = matched.num_rows - matched.num_tokens
    yield (
        f"Rows of {some(matched.tensors)} are matched by tokens, and are those of {shown(matched.tokenizer)}: "
        f"{matched.num_rows}{f', of which {padding} stand for no token' if padding else ''}."
    )
    if matched.added:
        yield f"Tokens of others that follow those ({len(matched.added)}): {some(matched.added)}."
    for path, tokens in matched.without_row.items():
        yield f"Tokens of {shown(path)} that are not among them, left out ({len(tokens)}): {some(tokens)}."
