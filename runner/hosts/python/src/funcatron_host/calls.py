"""What a handler is given (context, event) and how what it returns becomes an answer.

Pure but for the clock that remaining time needs; docs/hosts.md states every form.
"""

from __future__ import annotations

import base64
import io
import json
import re
import time
from datetime import datetime
from http import HTTPStatus
from typing import Any, Mapping
from urllib.parse import parse_qs

from .http_stream import Answer, Request, is_header_name, is_header_value
from .pieces import Pieces

HTTP_PREFIX = "fn-http-h-"
AMQP_PREFIX = "fn-amqp-h-"
CLOUD_EVENT_PREFIX = "ce-"
INTENT_HTTP = "httprequest"
INTENT_EVENT = "event"
# `json.dumps` with these would make an encoder for each call.
_TO_JSON = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode
_ORIGIN = re.compile(r"^[a-z][a-z0-9+.-]*://[^/]*", re.IGNORECASE)
_UNPREFIXED = {"content-type", "fn-fdk-version", "fn-fdk-runtime", "fn-http-status"}
# The answer's framing is the platform's; a function's own word on it would contradict the bytes sent.
_FRAMING = {"content-length", "transfer-encoding", "connection", "keep-alive", "upgrade", "trailer", "te"}


class InvalidResult(Exception):
    """The function returned what cannot be an HTTP answer."""


class Context:
    """The call, in the Fn FDK's words and in AWS Lambda's."""

    def __init__(self, request: Request, env: Mapping[str, str]) -> None:
        self._request = request
        self._env = env
        self._response_headers: dict[str, str | list[str]] = {}
        self._response_status: int | None = None
        self._gateway = request.header("fn-intent") == INTENT_HTTP

    def AppID(self) -> str | None:
        return self._env.get("FN_APP_ID")

    def AppName(self) -> str | None:
        return self._env.get("FN_APP_NAME")

    def FnID(self) -> str | None:
        return self._env.get("FN_FN_ID")

    def FnName(self) -> str | None:
        return self._env.get("FN_FN_NAME")

    def CallID(self) -> str:
        return self._request.header("fn-call-id", "") or ""

    def Config(self) -> Mapping[str, str]:
        return self._env

    def Headers(self) -> dict[str, str | list[str]]:
        """HTTP headers with the call's own, names in lower case; a repeated one is a list."""
        merged = {name: _fold(values) for name, values in self._request.headers.items()
                  if not (self._gateway and name.startswith(HTTP_PREFIX))}
        merged.update(self.HTTPHeaders())
        return merged

    def HTTPHeaders(self) -> dict[str, str | list[str]]:
        if not self._gateway:
            return {}
        return {name: _fold(values) for name, values in http_headers(self._request).items()}

    def Format(self) -> str:
        return "http-stream"

    def TracingContext(self) -> None:
        return None

    def Deadline(self) -> str | None:
        return self._request.header("fn-deadline")

    def Method(self) -> str | None:
        return self._request.header("fn-http-method")

    def RequestURL(self) -> str | None:
        return self._request.header("fn-http-request-url")

    def SetResponseHeaders(self, headers: Mapping[str, Any] | None, status_code: int) -> None:
        self._response_headers.update({str(k).lower(): v for k, v in (headers or {}).items()})
        self._response_status = status_code

    def GetResponseHeaders(self) -> dict[str, str | list[str]]:
        return self._response_headers

    def GetResponseStatus(self) -> int | None:
        return self._response_status

    def OperationID(self) -> str | None:
        return self._request.header("fn-operation-id")

    def RouteTemplate(self) -> str | None:
        return self._request.header("fn-route-template")

    def PathParams(self) -> dict[str, str]:
        return path_params(self._request)

    def Attempt(self) -> int:
        return attempt_of(self._request)

    @property
    def aws_request_id(self) -> str:
        return self.CallID()

    @property
    def function_name(self) -> str | None:
        return self.FnName()

    @property
    def memory_limit_in_mb(self) -> int | None:
        memory = self._env.get("FN_MEMORY", "")
        return int(memory) if memory.isdigit() else None

    def get_remaining_time_in_millis(self) -> int:
        deadline = deadline_of(self._request)
        return max(0, int((deadline - time.time()) * 1000)) if deadline else 0


def build_event(request: Request) -> dict[str, Any]:
    """The event: Lambda's proxy event for HTTP calls, the same keys where they apply for others."""
    http = request.header("fn-intent") != INTENT_EVENT
    path, raw_query = _path_and_query(request.header("fn-http-request-url", "") or "")
    query = parse_qs(raw_query, keep_blank_values=True)
    headers = http_headers(request)
    if "content-type" in request.headers:
        headers.setdefault("content-type", request.headers["content-type"])
    body, is_base64 = _text_or_base64(request.body)
    return {
        "httpMethod": request.header("fn-http-method") if http else None,
        "path": path,
        "rawQueryString": raw_query,
        "queryStringParameters": {name: values[-1] for name, values in query.items()},
        "multiValueQueryStringParameters": query,
        "pathParameters": path_params(request),
        "resource": request.header("fn-route-template"),
        "operationId": request.header("fn-operation-id"),
        "headers": {name: ", ".join(values) for name, values in headers.items()},
        "multiValueHeaders": headers,
        "body": body,
        "isBase64Encoded": is_base64,
        "exchange": request.header("fn-exchange"),
        "routingKey": request.header("fn-routing-key"),
        "requestContext": {"requestId": request.header("fn-call-id"),
                           "deadline": request.header("fn-deadline"),
                           "attempt": attempt_of(request)},
    }


def http_headers(request: Request) -> dict[str, list[str]]:
    """The caller's headers: prefixed on HTTP calls, those of the message on events, plain on direct invokes."""
    intent = request.header("fn-intent")
    if intent == INTENT_HTTP:
        return _unprefixed(request, HTTP_PREFIX)
    if intent == INTENT_EVENT:
        own = {name: list(values) for name, values in request.headers.items() if name.startswith(CLOUD_EVENT_PREFIX)}
        return _unprefixed(request, AMQP_PREFIX) | own
    return {name: list(values) for name, values in request.headers.items()
            if not name.startswith("fn-") and name not in _FRAMING and name != "host"}


def _unprefixed(request: Request, prefix: str) -> dict[str, list[str]]:
    return {name[len(prefix):]: list(values) for name, values in request.headers.items() if name.startswith(prefix)}


def _path_and_query(url: str) -> tuple[str, str]:
    """Takes any text: the host in it is the caller's, and `urlsplit` raises on some."""
    path, _, query = url.partition("#")[0].partition("?")
    return _ORIGIN.sub("", path), query


def path_params(request: Request) -> dict[str, str]:
    text = request.header("fn-path-params")
    if text is None:
        return {}
    try:
        params = json.loads(text)
    except ValueError:
        return {}
    return params if isinstance(params, dict) else {}


def attempt_of(request: Request) -> int:
    attempt = request.header("fn-attempt") or "1"
    return int(attempt) if re.fullmatch("[0-9]{1,9}", attempt) else 1


def deadline_of(request: Request) -> float | None:
    """The deadline as seconds since the epoch; None when there is none or it cannot be read."""
    text = request.header("fn-deadline")
    if not text:
        return None
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return None


def answer_fdk(context: Context, result: Any) -> Answer:
    """An answer from what an FDK handler returned or set on its context."""
    if callable(getattr(result, "body_bytes", None)) and callable(getattr(result, "status", None)):
        # An FDK Response has put its headers on the context already.
        return _answer(result.status(), context.GetResponseHeaders(), bytes(result.body_bytes()), None)
    body, content_type = _encode(result)
    return _answer(context.GetResponseStatus() or 200, context.GetResponseHeaders(), body, content_type)


def answer_event(context: Context, result: Any) -> Answer:
    """An answer from what an event handler returned: a proxy result, or a plain value."""
    if not (isinstance(result, Mapping) and "statusCode" in result):
        return answer_fdk(context, result)
    headers: dict[str, Any] = dict(result.get("headers") or {})
    headers.update(result.get("multiValueHeaders") or {})
    if result.get("cookies"):
        headers["set-cookie"] = list(result["cookies"])
    body, content_type = _encode(result.get("body"))
    if result.get("isBase64Encoded") and isinstance(body, bytes):
        body, content_type = _from_base64(body), "application/octet-stream"
    return _answer(result["statusCode"], headers, body, content_type)


def answer_failure(status: int, message: str) -> Answer:
    """502 or 504 with a short reason; a stack trace never leaves through here."""
    body = json.dumps({"message": message}).encode()
    return Answer(status, [("Content-Type", "application/json")], body)


def with_log(answer: Answer, log: bytes | None) -> Answer:
    """The answer with what its call wrote, where that was asked for. No header of a function's own has this name."""
    if not log:
        return answer
    return answer._replace(headers=[*answer.headers, ("Fn-Log", base64.b64encode(log).decode("ascii"))])


def _answer(status: Any, headers: Mapping[str, Any], body: bytes | Pieces, content_type: str | None) -> Answer:
    if isinstance(status, bool) or not isinstance(status, (int, str)) or not str(status).isdigit():
        raise InvalidResult(f"status is not a number but {type(status).__name__}")
    if not 200 <= int(status) <= 599:
        raise InvalidResult(f"status {int(status)} is not between 200 and 599")
    out = [("Fn-Http-Status", str(int(status)))]
    given_type = None
    for name, value in headers.items():
        lower = str(name).lower().removeprefix(HTTP_PREFIX)
        if lower in _FRAMING or lower == "fn-http-status":
            continue
        if lower == "content-type":
            given_type = str(_fold(value) if not isinstance(value, list) else value[0])
            continue
        wire_name = lower if lower in _UNPREFIXED else f"Fn-Http-H-{_canonical(lower)}"
        out += [(wire_name, _checked(lower, item)) for item in (value if isinstance(value, (list, tuple)) else [value])]
    given_type = given_type or content_type
    if given_type:
        out.append(("Content-Type", _checked("content-type", given_type)))
    return Answer(200, out, _bodyless(int(status), body))


def _bodyless(status: int, body: bytes | Pieces) -> bytes | Pieces:
    return b"" if status in (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED) else body


def _checked(name: str, value: Any) -> str:
    text = str(value)
    if not is_header_name(name) or not is_header_value(text):
        raise InvalidResult(f"header {name[:64]!r} cannot be sent")
    return text


def _encode(value: Any) -> tuple[bytes | Pieces, str | None]:
    if value is None:
        return b"", None
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape"), "text/plain; charset=utf-8"
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value), "application/octet-stream"
    if isinstance(value, Pieces):
        return value, "application/octet-stream"
    if isinstance(value, io.BytesIO):
        return value.getvalue(), "application/octet-stream"
    try:
        return _TO_JSON(value).encode(), "application/json"
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidResult(f"cannot send a {type(value).__name__}: {error}") from error


def _from_base64(body: bytes) -> bytes:
    try:
        return base64.b64decode(body, validate=True)
    except ValueError as error:
        raise InvalidResult("body is not base64 though isBase64Encoded says so") from error


def _text_or_base64(body: bytes) -> tuple[str | None, bool]:
    if not body:
        return None, False
    try:
        return body.decode("utf-8"), False
    except UnicodeDecodeError:
        return base64.b64encode(body).decode("ascii"), True


def _fold(values: Any) -> Any:
    return values[0] if isinstance(values, list) and len(values) == 1 else values


def _canonical(name: str) -> str:
    return "-".join(part.capitalize() for part in name.split("-"))
