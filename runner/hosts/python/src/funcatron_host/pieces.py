"""A body that is written as it is made: what a handler's generator yields, as bytes.

Knows neither sockets nor event loops; whoever makes one says how the next piece is taken.
"""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Iterator
from typing import Any, Callable

END = object()  # what is taken once nothing is left


class PiecesFailed(Exception):
    """The function raised in the middle of its answer; its error is the cause."""


class Pieces:
    """Takes the first piece at once, so that a function may set status and headers until then."""

    def __init__(self, take: Callable[[], Any], close: Callable[[], None]) -> None:
        self._take = take
        self._close = close
        self._next = take()

    def __iter__(self) -> Iterator[bytes]:
        while self._next is not END:
            piece = _to_bytes(self._next)
            if piece:
                yield piece
            try:
                self._next = self._take()
            except BaseException as error:  # whatever user code raises ends its call, never the worker
                raise PiecesFailed from error

    def close(self) -> None:
        """Tells the function that nobody reads any more: its generator sees GeneratorExit."""
        self._close()


def is_source(value: Any) -> bool:
    """Whether a value is read piece by piece. An open file is not: its lines are no answer."""
    return isinstance(value, (Iterator, AsyncIterator)) and not isinstance(value, io.IOBase)


def _to_bytes(piece: Any) -> bytes:
    if isinstance(piece, str):
        return piece.encode("utf-8", "surrogateescape")
    if isinstance(piece, (bytes, bytearray, memoryview)):
        return bytes(piece)
    raise PiecesFailed from TypeError(f"a generator yields text or bytes, not {type(piece).__name__}")
