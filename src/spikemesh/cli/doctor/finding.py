"""What one check says: fine, worth knowing, or in the way."""

from __future__ import annotations

from typing import Literal

import msgspec

from spikemesh.cli.exits import exit_code

State = Literal["ok", "note", "wrong"]


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """`seen` says what is so, `advice` what to do. Only what is `wrong` stops this node from taking part; `code` is
    then the exit code that a join would end with."""

    name: str
    state: State
    seen: str
    advice: str = ""
    code: int = 0


def ok(name: str, seen: str) -> Finding:
    return Finding(name=name, state="ok", seen=seen)


def note(name: str, seen: str, advice: str) -> Finding:
    return Finding(name=name, state="note", seen=seen, advice=advice)


def wrong(name: str, error: Exception, advice: str = "") -> Finding:
    """Our errors say themselves what to do; `advice` is for those that do not."""
    return Finding(name=name, state="wrong", seen=str(error), advice=advice, code=exit_code(error))
