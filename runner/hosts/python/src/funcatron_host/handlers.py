"""Finds the function that a handler string names and learns, once, how it wants to be called.

Imports user code; never opens a socket.
"""

from __future__ import annotations

import importlib
import inspect
import io
import os
import sys
from types import ModuleType
from typing import Any, Callable, Mapping

from .calls import Answer, Context, answer_event, answer_fdk, build_event
from .http_stream import Request

DEFAULT_HANDLER = "handler"
DEFAULT_MODULE = "func"
_CONTEXT_NAMES = {"ctx", "context"}


class HandlerError(Exception):
    """The handler string names nothing that can be called."""


class UnknownOperation(Exception):
    """The function has several operations, and none of the name that the call carries."""


class Entry:
    """One callable and its form, decided by its signature."""

    __slots__ = ("function", "is_async", "_form", "_data_by_name")

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        target = function if inspect.isroutine(function) else getattr(function, "__call__", function)
        self.is_async = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(target)
        names, self._data_by_name = _parameters(function)
        self._form = _form(names)

    def call(self, request: Request, context: Context) -> Any:
        """The result, or for coroutine functions the coroutine."""
        if self._form == "fdk":
            data = io.BytesIO(request.body)
            return self.function(context, data=data) if self._data_by_name else self.function(context, data)
        if self._form == "fdk1":
            return self.function(context)
        if self._form == "none":
            return self.function()
        event = build_event(request)
        if self._form == "event1":
            return self.function(event)
        if self._form == "context_event":
            return self.function(context, event)
        return self.function(event, context)

    def answer(self, context: Context, result: Any) -> Answer:
        return answer_fdk(context, result) if self._form in ("fdk", "fdk1") else answer_event(context, result)


class Handler:
    """What a revision runs: one entry, or several chosen by operationId."""

    def __init__(self, target: Any) -> None:
        if inspect.isclass(target):
            target = target()
        self._single: Entry | None = None
        self._operations: dict[str, Entry] = {}
        if not isinstance(target, ModuleType) and callable(target):
            self._single = Entry(target)
            return
        self._operations = {name: Entry(function) for name, function in _operations(target).items()}
        if not self._operations:
            raise HandlerError(f"a {type(target).__name__} is not callable and holds no operations")

    @property
    def is_async(self) -> bool:
        entries = [self._single] if self._single else list(self._operations.values())
        return any(entry.is_async for entry in entries if entry)

    def find(self, operation_id: str | None) -> Entry:
        if self._single is not None:
            return self._single
        if operation_id is None and len(self._operations) == 1:
            return next(iter(self._operations.values()))
        entry = self._operations.get(operation_id or "")
        if entry is None:
            raise UnknownOperation(f"function has no operation {operation_id!r}" if operation_id
                                   else "function has several operations and the call names none")
        return entry


def load_handler(spec: str | None, code_dir: str) -> Handler:
    """Imports what `spec` names from `code_dir`; user code's own errors pass through."""
    _forget_shadowed(code_dir)
    if code_dir not in sys.path:
        sys.path.insert(0, code_dir)
    importlib.invalidate_caches()
    return Handler(_resolve(spec or DEFAULT_HANDLER, code_dir))


def _resolve(spec: str, code_dir: str) -> Any:
    if ":" in spec:
        module, _, attribute = spec.partition(":")
        return _attribute(importlib.import_module(module), attribute)
    if "." in spec:
        return _resolve_dotted(spec, code_dir)
    default = _default_module(code_dir)
    if default is not None and default != spec:
        module = importlib.import_module(default)
        if hasattr(module, spec):
            return getattr(module, spec)
        if not _is_module(code_dir, spec):
            raise HandlerError(f"module {default!r} has no attribute {spec!r}")
    if not _is_module(code_dir, spec):
        raise HandlerError(f"no func.py, no single module and no module {spec!r} in the bundle")
    module = importlib.import_module(spec)
    return getattr(module, spec, module)


def _resolve_dotted(spec: str, code_dir: str) -> Any:
    """`package.module.attribute`: the longest leading part that is a file of the bundle is the module."""
    parts = spec.split(".")
    for count in range(len(parts), 0, -1):
        if _is_module(code_dir, *parts[:count]):
            return _attribute(importlib.import_module(".".join(parts[:count])), ".".join(parts[count:]))
    # Not a file of the bundle: perhaps a module that one of its files makes up; the import says what is wrong.
    return _attribute(importlib.import_module(".".join(parts[:-1])), parts[-1])


def _attribute(target: Any, dotted: str) -> Any:
    for name in filter(None, dotted.split(".")):
        if not hasattr(target, name):
            raise HandlerError(f"{getattr(target, '__name__', type(target).__name__)!r} has no attribute {name!r}")
        target = getattr(target, name)
    return target


def _default_module(code_dir: str) -> str | None:
    modules = [name for name in bundle_modules(code_dir) if name not in ("setup", "conftest")]
    if DEFAULT_MODULE in modules:
        return DEFAULT_MODULE
    return modules[0] if len(modules) == 1 else None


def _is_module(code_dir: str, *parts: str) -> bool:
    path = os.path.join(code_dir, *parts)
    return os.path.isfile(path + ".py") or os.path.isfile(os.path.join(path, "__init__.py"))


def bundle_modules(code_dir: str) -> list[str]:
    """Top-level modules and packages of the bundle."""
    names = []
    for entry in sorted(os.listdir(code_dir)):
        name = entry.removesuffix(".py")
        if name.isidentifier() and _is_module(code_dir, name):
            names.append(name)
    return names


def _forget_shadowed(code_dir: str) -> None:
    # The fork server has imported much of the standard library; a bundle's own module of such a name
    # must win all the same, as it does for a program started in that directory.
    for name in bundle_modules(code_dir):
        for loaded in [m for m in sys.modules if m == name or m.startswith(name + ".")]:
            if not loaded.startswith("funcatron_host"):
                del sys.modules[loaded]


def _operations(target: Any) -> Mapping[str, Callable[..., Any]]:
    if isinstance(target, Mapping):
        return {str(name): function for name, function in target.items() if callable(function)}
    if type(target).__module__ == "builtins" and not isinstance(target, ModuleType):
        return {}  # a number or a list has methods too, but none is an operation
    names = getattr(target, "__all__", None) or [name for name in dir(target) if not name.startswith("_")]
    found = {name: getattr(target, name) for name in names if callable(getattr(target, name, None))}
    if isinstance(target, ModuleType) and not hasattr(target, "__all__"):
        # What a module merely imported is no operation of it.
        found = {name: f for name, f in found.items()
                 if not inspect.isclass(f) and getattr(f, "__module__", None) == target.__name__}
    return found


def _parameters(function: Callable[..., Any]) -> tuple[list[str], bool]:
    """Names of what may be passed by position, and whether the second is `data`."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return ["event", "context"], False
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    required = [p.name for p in parameters if p.kind == p.KEYWORD_ONLY and p.default is p.empty]
    if required == ["data"] and len(names) == 1:
        return [*names, "data"], True
    if required:
        raise HandlerError(f"handler requires keyword {required[0]!r}")
    if any(p.kind == p.VAR_POSITIONAL for p in parameters):
        names += ["event", "context"][len(names):]
    by_name = any(p.name == "data" and p.kind == p.POSITIONAL_OR_KEYWORD for p in parameters)
    _refuse_more_required(parameters)
    return names, by_name


def _refuse_more_required(parameters: list[inspect.Parameter]) -> None:
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if sum(p.default is p.empty for p in positional) > 2:
        raise HandlerError("handler takes more than two arguments")


def _form(names: list[str]) -> str:
    if not names:
        return "none"
    if len(names) == 1:
        return "fdk1" if names[0] in _CONTEXT_NAMES else "event1"
    if names[1] == "event" and names[0] in _CONTEXT_NAMES:
        return "context_event"
    if names[0] in _CONTEXT_NAMES or names[1] == "data":
        return "fdk"
    return "event"
