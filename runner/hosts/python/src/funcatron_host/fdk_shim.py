"""Lets `from fdk import response` work where the bundle brings no `fdk` of its own.

Owns the two names that function code imports from it; a real `fdk` in the bundle or the image wins.
"""

from __future__ import annotations

import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from .calls import Context


class Response:
    """An answer with status and headers, built as the Fn FDK builds it."""

    def __init__(self, ctx: Context, response_data: str | bytes | None = None,
                 headers: dict[str, Any] | None = None, status_code: int = 200,
                 response_encoding: str = "utf-8") -> None:
        self._ctx = ctx
        self._data = response_data if response_data is not None else ""
        self._status = status_code
        self._encoding = response_encoding
        ctx.SetResponseHeaders(headers or {}, status_code)

    def status(self) -> int:
        return self._status

    def body(self) -> str | bytes:
        return self._data

    def body_bytes(self) -> bytes:
        if isinstance(self._data, (bytes, bytearray)):
            return bytes(self._data)
        return str(self._data).encode(self._encoding)

    def context(self) -> Context:
        return self._ctx


def _refuse_handle(*_args: object) -> None:
    raise RuntimeError("fdk.handle() is not needed here: name the function in the Fn's handler")


_CONTENTS: dict[str, dict[str, Any]] = {
    "fdk": {"__path__": [], "handle": _refuse_handle},
    "fdk.response": {"Response": Response},
    "fdk.context": {"InvokeContext": Context},
}


class _Finder(MetaPathFinder, Loader):
    """Comes last among the finders, so it is asked only for what nobody else has."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if fullname not in _CONTENTS:
            return None
        return ModuleSpec(fullname, self, is_package=fullname == "fdk")

    def exec_module(self, module: ModuleType) -> None:
        module.__dict__.update(_CONTENTS[module.__name__])


def install() -> None:
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())
