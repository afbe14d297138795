from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from pathlib import Path

import pytest

from harness import Host, UnixConnection, alive, connect, deadline, eventually, post

FDK = {"Fn-Http-H-X-Name": "ada", "Content-Type": "application/json", "Fn-Operation-Id": "getOrder",
       "Fn-Route-Template": "/orders/{id}", "Fn-Path-Params": json.dumps({"id": "7 ü"}), "Fn-Attempt": "2"}


def test_fdk_form_gets_context_and_data(host: Host) -> None:
    host.loaded("a", """
import json
def handler(ctx, data=None):
    return {"body": data.read().decode(), "app": ctx.AppName(), "fn": ctx.FnName(), "call": ctx.CallID(),
            "method": ctx.Method(), "url": ctx.RequestURL(), "name": ctx.HTTPHeaders()["x-name"],
            "merged": ctx.Headers()["x-name"], "intent": ctx.Headers()["fn-intent"], "config": ctx.Config()["K"],
            "deadline": ctx.Deadline(), "operation": ctx.OperationID(), "template": ctx.RouteTemplate(),
            "params": ctx.PathParams(), "attempt": ctx.Attempt(), "format": ctx.Format()}
""", env={"K": "V"})
    when = deadline(20)
    answer = host.call("a", b"hi", {**FDK, "Fn-Deadline": when})
    assert answer.header("Content-Type") == "application/json"
    assert answer.json == {
        "body": "hi", "app": "shop", "fn": "orders", "call": "call-1", "method": "POST", "url": "/orders/7?a=1&a=2&b=",
        "name": "ada", "merged": "ada", "intent": "httprequest", "config": "V", "deadline": when,
        "operation": "getOrder", "template": "/orders/{id}", "params": {"id": "7 ü"}, "attempt": 2,
        "format": "http-stream"}


def test_fdk_response_headers_and_status_are_wrapped(host: Host) -> None:
    host.loaded("a", "def handler(ctx, data):\n    ctx.SetResponseHeaders({'X-A': ['1', '2'], 'Content-Type': "
                     "'text/html', 'Content-Length': '999'}, 418)\n    return 'tea'\n")
    reply = host.call("a")
    assert (reply.status, reply.header("Fn-Http-Status"), reply.header("Content-Type")) == (200, "418", "text/html")
    assert [v for k, v in reply.headers if k == "Fn-Http-H-X-A"] == ["1", "2"]
    assert (reply.body, reply.header("Content-Length")) == (b"tea", "3")


def test_fdk_response_object_needs_no_fdk_in_the_bundle(host: Host) -> None:
    host.loaded("a", "from fdk import response\nimport fdk.context\ndef handler(ctx, data=None):\n    return "
                     "response.Response(ctx, response_data='{}', headers={'X-B': 'b'}, status_code=201)\n")
    reply = host.call("a")
    assert (reply.header("Fn-Http-Status"), reply.header("Fn-Http-H-X-B"), reply.body) == ("201", "b", b"{}")


def test_fdk_of_the_bundle_wins(host: Host) -> None:
    host.loaded("a", {"func.py": "import fdk\ndef handler(ctx, data): return fdk.MINE\n", "fdk/__init__.py": "MINE='x'\n"})
    assert host.call("a").text == "x"


def test_event_form_is_the_proxy_event(host: Host) -> None:
    host.loaded("a", "def handler(event, context):\n    event['request'] = context.aws_request_id\n"
                     "    event['left'] = context.get_remaining_time_in_millis() > 1000\n    return event\n")
    event = host.call("a", b'{"a":1}', FDK).json
    assert event["body"] == '{"a":1}' and event["isBase64Encoded"] is False
    assert (event["httpMethod"], event["path"], event["rawQueryString"]) == ("POST", "/orders/7", "a=1&a=2&b=")
    assert event["queryStringParameters"] == {"a": "2", "b": ""}
    assert event["multiValueQueryStringParameters"] == {"a": ["1", "2"], "b": [""]}
    assert event["pathParameters"] == {"id": "7 ü"} and event["resource"] == "/orders/{id}"
    assert event["operationId"] == "getOrder" and event["request"] == "call-1" and event["left"] is True
    assert event["headers"] == {"x-name": "ada", "content-type": "application/json"}
    assert event["requestContext"]["attempt"] == 2


@pytest.mark.parametrize("url, path, query", [
    ("http://shop.example.com/a/b?x=1#f", "/a/b", "x=1"), ("http://[bad/p", "/p", ""), ("//p?", "//p", ""), ("", "", "")])
def test_path_and_query_are_taken_from_any_url(host: Host, url: str, path: str, query: str) -> None:
    host.loaded("a", "def handler(event):\n    return [event['path'], event['rawQueryString']]\n")
    assert host.call("a", headers={"Fn-Http-Request-Url": url}).json == [path, query]


def test_body_that_is_no_text_comes_as_base64(host: Host) -> None:
    host.loaded("a", "import base64\ndef handler(event):\n    raw = base64.b64decode(event['body'])\n    return "
                     "{'statusCode': 200, 'body': base64.b64encode(raw).decode(), 'isBase64Encoded': True}\n")
    reply = host.call("a", b"\xff\x00\x01")
    assert (reply.body, reply.header("Content-Type")) == (b"\xff\x00\x01", "application/octet-stream")


def test_proxy_result_sets_status_headers_and_cookies(host: Host) -> None:
    host.loaded("a", "def handler(event, context):\n    return {'statusCode': '404', 'headers': {'X-C': 'c'}, "
                     "'multiValueHeaders': {'X-D': ['1', '2']}, 'cookies': ['a=1', 'b=2'], 'body': 'none'}\n")
    reply = host.call("a")
    assert reply.header("Fn-Http-Status") == "404" and reply.header("Fn-Http-H-X-C") == "c"
    assert [v for k, v in reply.headers if k == "Fn-Http-H-X-D"] == ["1", "2"]
    assert [v for k, v in reply.headers if k == "Fn-Http-H-Set-Cookie"] == ["a=1", "b=2"]
    assert reply.header("Content-Type") == "text/plain; charset=utf-8"


def test_queue_event_carries_its_exchange_key_and_headers(host: Host) -> None:
    host.loaded("a", "def handler(event):\n    return {k: event[k] for k in "
                     "('exchange', 'routingKey', 'body', 'httpMethod', 'headers')}\n")
    headers = {"Fn-Intent": "event", "Fn-Exchange": "payments", "Fn-Routing-Key": "paid.eu",
               "Fn-Amqp-H-Tenant": "t", "Ce-Type": "paid", "Fn-Http-Method": None, "Fn-Http-Request-Url": None}
    assert host.call("a", b"12", headers).json == {
        "exchange": "payments", "routingKey": "paid.eu", "body": "12", "httpMethod": None,
        "headers": {"tenant": "t", "ce-type": "paid"}}


def test_direct_invoke_has_plain_headers(host: Host) -> None:
    host.loaded("a", "def handler(event):\n    return event['headers']\n")
    headers = {"Fn-Intent": "invoke", "X-Plain": "p", "Content-Type": "text/css"}
    got = host.call("a", b"12", headers).json
    assert (got["x-plain"], got["content-type"]) == ("p", "text/css")
    assert not any(name.startswith("fn-") or name == "host" for name in got)


@pytest.mark.parametrize("source, body, content_type", [
    ("'é'", "é".encode(), "text/plain; charset=utf-8"), ("b'\\xff'", b"\xff", "application/octet-stream"),
    ("[1, 'é']", '[1,"é"]'.encode(), "application/json"), ("7", b"7", "application/json"),
    ("{'statusCodes': 1}", b'{"statusCodes":1}', "application/json"), ("True", b"true", "application/json"),
    ("None", b"", None)])
def test_plain_results_are_typed(host: Host, source: str, body: bytes, content_type: str | None) -> None:
    host.loaded("a", f"def handler(event):\n    return {source}\n")
    host.loaded("b", f"def handler(ctx, data):\n    return {source}\n")
    for reply in (host.call("a"), host.call("b")):
        assert (reply.status, reply.header("Fn-Http-Status")) == (200, "200")
        assert (reply.body, reply.header("Content-Type")) == (body, content_type)


@pytest.mark.parametrize("source", ["object()", "{1, 2}", "{'statusCode': 99}",
                                    "{'statusCode': 'soon'}", "{'statusCode': 200, 'headers': {'X': 'a\\r\\nB: c'}}",
                                    "{'statusCode': 200, 'headers': {'a b': 'c'}}", "{'statusCode': None}",
                                    "{'statusCode': 200, 'headers': 7}", "{'statusCode': 200, 'body': '!', "
                                    "'isBase64Encoded': True}", "float('nan')", "['\\ud800']"])
def test_garbage_results_are_502_and_the_worker_lives(host: Host, source: str) -> None:
    pid = host.loaded("a", f"def handler(event):\n    if event['body'] == 'ok':\n        return 'ok'\n    return {source}\n")
    reply = host.call("a")
    assert reply.status == 502 and "message" in reply.json
    assert host.call("a", b"ok").text == "ok" and alive(pid)


@pytest.mark.parametrize("statement, name", [
    ("raise ValueError('secret detail')", "ValueError"), ("import sys; sys.exit(1)", "SystemExit"),
    ("raise KeyboardInterrupt", "KeyboardInterrupt"), ("handler(event)", "RecursionError"), ("1 / 0", "ZeroDivisionError")])
def test_exception_is_502_with_the_trace_in_the_log_alone(host: Host, statement: str, name: str) -> None:
    pid = host.loaded("a", f"def handler(event):\n    {statement}\n")
    reply = host.call("a", call_id="c-9")
    assert reply.status == 502 and reply.json == {"message": f"function failed: {name}"}
    host.call("a")
    host.request("unload", "a", graceMs=1000)
    trace = "\n".join(host.messages(call="c-9", stream="stderr", level="error"))
    assert name in trace and "func.py" in trace and "funcatron_host" not in trace
    assert not alive(pid)


@pytest.mark.parametrize("files, handler, expected", [
    ({"func.py": "def handler(event): return 'a'"}, None, "a"),
    ({"func.py": "def run(event): return 'a'"}, "run", "a"),
    ({"only.py": "def handler(event): return 'a'"}, "handler", "a"),
    ({"orders.py": "def list_(event): return 'a'", "other.py": ""}, "orders.list_", "a"),
    ({"orders.py": "def list_(event): return 'a'", "other.py": ""}, "orders:list_", "a"),
    ({"pkg/__init__.py": "", "pkg/mod.py": "def f(event): return 'a'"}, "pkg.mod:f", "a"),
    ({"pkg/__init__.py": "", "pkg/mod.py": "def f(event): return 'a'"}, "pkg.mod.f", "a"),
    ({"func.py": "class C:\n  @staticmethod\n  def f(event): return 'a'"}, "func.C.f", "a"),
    ({"func.py": "import helper\ndef handler(event): return helper.X", "helper.py": "X = 'a'"}, "handler", "a"),
    ({"json.py": "def handler(event): return 'a'"}, "json.handler", "a"),
    ({"func.py": "def handler(event, context, extra=1): return 'a'"}, "handler", "a"),
    ({"func.py": "def handler(): return 'a'"}, "handler", "a"),
    ({"func.py": "def handler(*args): return args[0]['path'][:1]"}, "handler", "/"),
    ({"func.py": "def handler(ctx): return ctx.CallID()"}, "handler", "call-1"),
    ({"func.py": "def handler(ctx, *, data): return data.read()"}, "handler", ""),
    ({"func.py": "def handler(context, event): return event['path'] + context.CallID()"}, "handler", "/orders/7call-1"),
    ({"func.py": "def handler(request, context): return request['path']"}, "handler", "/orders/7"),
    ({"func.py": "handler = lambda event: 'a'"}, "handler", "a"),
    ({"func.py": "class Handler:\n  def __call__(self, event): return 'a'\nhandler = Handler()"}, "handler", "a"),
    ({"func.py": "import functools\ndef f(x, event): return x\nhandler = functools.partial(f, 'a')"}, "handler", "a"),
    ({"func.py": "async def handler(event, context):\n  import asyncio\n  await asyncio.sleep(0.01)\n  return 'a'"}, None, "a"),
    ({"func.py": "async def handler(ctx, data=None): return data.getvalue() + b'a'"}, None, "a"),
])
def test_handler_forms(host: Host, files: dict, handler: str | None, expected: str) -> None:
    host.loaded("a", files, handler)
    assert host.call("a").text == expected


@pytest.mark.parametrize("files, handler, reason", [
    ({"func.py": "handler = 7"}, "handler", "is not callable"), ({"func.py": ""}, "func.nothing", "no attribute 'nothing'"),
    ({"a.py": "", "b.py": ""}, "handler", "no func.py"), ({}, "handler", "no func.py"),
    ({"func.py": "def handler(a, b, c): pass"}, "handler", "more than two arguments"),
    ({"func.py": ""}, "nowhere.f", "No module named 'nowhere'")])
def test_handler_that_names_nothing_fails_the_load(host: Host, files: dict, handler: str, reason: str) -> None:
    answer = host.load("a", files, handler)
    assert answer["event"] == "failed" and reason in answer["reason"]


OPERATIONS = [
    ({"func.py": "def listOrders(event): return 'list'\ndef getOrder(ctx, data): return 'get'\nfrom json import loads"}, "func"),
    ({"func.py": "handler = {'listOrders': lambda event: 'list', 'getOrder': lambda event: 'get'}"}, "handler"),
    ({"func.py": "class Orders:\n  def listOrders(self, event): return 'list'\n"
                 "  async def getOrder(self, ctx, data): return 'get'"}, "func.Orders"),
]


@pytest.mark.parametrize("files, handler", OPERATIONS)
def test_operations_are_dispatched_by_operation_id(host: Host, files: dict, handler: str) -> None:
    host.loaded("a", files, handler)
    assert host.call("a", headers={"Fn-Operation-Id": "listOrders"}).text == "list"
    assert host.call("a", headers={"Fn-Operation-Id": "getOrder"}).text == "get"
    for unknown in ({"Fn-Operation-Id": "loads"}, {"Fn-Operation-Id": "__init__"}, {}):
        reply = host.call("a", headers=unknown)
        assert reply.status == 502 and "operation" in reply.json["message"]


def test_one_function_learns_the_operation(host: Host) -> None:
    host.loaded("a", "def handler(event):\n    return event['operationId']\n")
    assert host.call("a", headers={"Fn-Operation-Id": "getOrder"}).text == "getOrder"


def test_calls_of_one_connection_share_a_warm_process(host: Host) -> None:
    host.loaded("a", "n = 0\ndef handler(event):\n    global n\n    n += 1\n    return str(n)\n")
    with connect(host.socket_of("a")) as connection:
        assert [post(connection).text for _ in range(3)] == ["1", "2", "3"]


@pytest.mark.parametrize("source", [
    "import threading\nbarrier = threading.Barrier(3, timeout=10)\ndef handler(event):\n    barrier.wait()\n    return 'met'\n",
    "import asyncio\narrived = 0\nasync def handler(event):\n    global arrived\n    arrived += 1\n"
    "    while arrived < 3: await asyncio.sleep(0.01)\n    return 'met'\n"])
def test_concurrent_calls_run_at_once(host: Host, source: str) -> None:
    host.loaded("a", source, concurrency=3)
    texts: list[str] = []
    threads = [threading.Thread(target=lambda: texts.append(host.call("a").text)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert texts == ["met"] * 3


@pytest.mark.parametrize("concurrency", [1, 2])
def test_no_more_calls_run_than_concurrency_allows(host: Host, concurrency: int) -> None:
    host.loaded("a", "import threading, time\nnow = most = 0\nlock = threading.Lock()\ndef handler(event):\n"
                     "    global now, most\n    with lock:\n        now += 1; most = max(most, now)\n"
                     "    time.sleep(0.05)\n    with lock: now -= 1\n    return str(most)\n", concurrency=concurrency)
    texts: list[str] = []
    threads = [threading.Thread(target=lambda: texts.append(host.call("a").text)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(texts) == 6 and max(texts) == str(concurrency)


@pytest.mark.parametrize("concurrency", [1, 4])
def test_coroutine_past_its_deadline_is_cancelled(host: Host, concurrency: int) -> None:
    host.loaded("a", "import asyncio\nasync def handler(event):\n    await asyncio.sleep(60)\n", concurrency=concurrency)
    started = time.monotonic()
    assert host.call("a", headers={"Fn-Deadline": deadline(0.3)}).status == 504
    assert time.monotonic() - started < 5


def test_function_that_ends_past_its_deadline_is_504(host: Host) -> None:
    host.loaded("a", "import time\ndef handler(event):\n    time.sleep(0.4)\n    return 'late'\n")
    assert host.call("a", headers={"Fn-Deadline": deadline(0.2)}).status == 504


def test_serial_handler_runs_in_the_thread_that_imported_it(host: Host) -> None:
    host.loaded("a", "import sqlite3\ndb = sqlite3.connect(':memory:')\ndef handler(event):\n"
                     "    return str(db.execute('select 7').fetchone()[0])\n")
    assert host.call("a").text == "7"


def test_forked_child_that_returns_answers_nothing(host: Host) -> None:
    host.loaded("a", "import os\ndef handler(event):\n    pid = os.fork()\n    return 'child' if pid == 0 else 'parent'\n")
    with connect(host.socket_of("a")) as connection:
        assert [post(connection).text for _ in range(3)] == ["parent"] * 3


def test_function_that_closes_its_sockets_hurts_only_itself(host: Host) -> None:
    host.loaded("b", "def handler(event): return 'fine'\n")
    host.loaded("a", "import os\ndef handler(event):\n    os.closerange(0, 100)\n    return 'x'\n")
    with pytest.raises(Exception):
        host.call("a", timeout_s=3)
    assert host.call("b").text == "fine"
    host.runner.send({"op": "kill", "id": 5, "revision": "a"})
    assert host.runner.read()["event"] in ("exited", "killed")


def test_hanging_function_does_not_hold_up_others(host: Host) -> None:
    host.loaded("a", "def handler(event):\n    while True: pass\n")
    host.loaded("b", "def handler(event): return 'fine'\n")
    with connect(host.socket_of("a")) as connection:
        connection.request("POST", "/call", b"", {"Fn-Call-Id": "c"})
        assert host.call("b").text == "fine"
        assert host.request("kill", "a")["event"] == "killed"


def test_big_bodies_go_both_ways(host: Host) -> None:
    host.loaded("a", "def handler(ctx, data): return data.getvalue()\n")
    body = bytes(range(256)) * 40_000
    assert host.call("a", body).body == body


def raw(host: Host, revision: str, data: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(5)
        sock.connect(host.socket_of(revision))
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        out = b""
        while chunk := sock.recv(65536):
            out += chunk
        return out


def test_chunked_bodies_are_read(host: Host) -> None:
    host.loaded("a", "def handler(ctx, data): return data.getvalue()\n")
    request = b"POST /call HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n"
    assert raw(host, "a", request + request).count(b"abcde") == 2


@pytest.mark.parametrize("request_bytes", [
    b"nonsense\r\n\r\n", b"POST /call HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"POST /call HTTP/1.1\r\nContent-Length: -1\r\n\r\n", b"POST /call HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
    b"POST /call HTTP/1.1\r\nno colon\r\n\r\n", b"POST /call HTTP/1.1\r\n a: b\r\n\r\n",
    b"POST /call HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", b"POST /call HTTP/1.1\r\nX: " + b"x" * 200_000])
def test_malformed_requests_are_refused_and_the_worker_lives(host: Host, request_bytes: bytes) -> None:
    host.loaded("a", "def handler(event): return 'ok'\n")
    try:
        assert b" 200 " not in raw(host, "a", request_bytes)
    except ConnectionError:
        pass
    assert host.call("a").text == "ok"


def test_other_paths_and_methods_are_not_served(host: Host) -> None:
    host.loaded("a", "def handler(event): return 'ok'\n")
    assert b" 404 " in raw(host, "a", b"POST /other HTTP/1.1\r\nContent-Length: 0\r\n\r\n")
    assert b" 404 " in raw(host, "a", b"GET /call HTTP/1.1\r\n\r\n")




def read_pieces(connection: UnixConnection, headers: dict[str, str] | None = None) -> http.client.HTTPResponse:
    base = {"Fn-Call-Id": "c-1", "Fn-Deadline": deadline(30), "Fn-Intent": "httprequest", "Fn-Http-Method": "GET",
            "Fn-Http-Request-Url": "/events"}
    connection.request("POST", "/call", b"", {**base, **(headers or {})})
    return connection.getresponse()


GENERATORS = {
    "generator": "def handler(ctx, data=None):\n    ctx.SetResponseHeaders({'Content-Type': 'text/event-stream'}, 201)\n"
                 "    for n in range(3):\n        wait(n)\n        yield f'data: {n}\\n\\n'\n",
    "async": "async def handler(ctx, data=None):\n    ctx.SetResponseHeaders({'Content-Type': 'text/event-stream'}, 201)\n"
             "    for n in range(3):\n        wait(n)\n        yield f'data: {n}\\n\\n'\n",
    "result": "def pieces():\n    for n in range(3):\n        wait(n)\n        yield f'data: {n}\\n\\n'.encode()\n"
              "def handler(event):\n    return {'statusCode': 201, 'headers': {'content-type': 'text/event-stream'}, "
              "'body': pieces()}\n",
}
# A piece is made once a file of its number is there: the test decides when.
WAIT = "import os, time\ndef wait(n):\n    while not os.path.exists(os.environ['GO'] + str(n)): time.sleep(0.001)\n"


@pytest.mark.parametrize("concurrency", [1, 4])
@pytest.mark.parametrize("form", GENERATORS)
def test_a_generators_pieces_leave_as_they_are_yielded(host: Host, tmp_path: Path, form: str, concurrency: int) -> None:
    go = str(tmp_path / "go")
    host.loaded("a", WAIT + GENERATORS[form], env={"GO": go}, concurrency=concurrency)
    with connect(host.socket_of("a")) as connection:
        Path(go + "0").touch()
        response = read_pieces(connection)
        assert (response.status, response.getheader("Fn-Http-Status")) == (200, "201")
        assert (response.getheader("Content-Type"), response.getheader("Content-Length")) == ("text/event-stream", None)
        for n in range(3):
            assert response.read1() == f"data: {n}\n\n".encode(), "one comes before the next is made"
            Path(f"{go}{n + 1}").touch()
        assert response.read() == b""
        assert post(connection, b"").header("Fn-Http-Status") == "201", "the connection is good for another call"


def test_a_generator_that_raises_breaks_its_answer_off(host: Host) -> None:
    host.loaded("a", "def handler(event):\n    yield 'half'\n    raise OSError('secret')\n")
    with connect(host.socket_of("a")) as connection:
        response = read_pieces(connection)
        with pytest.raises(http.client.IncompleteRead):
            response.read()
    eventually(lambda: any("secret" in line for line in host.messages(call="c-1", stream="stderr")), "its trace")
    host.loaded("b", "def handler(event):\n    raise OSError('at once')\n    yield ''\n")
    assert host.call("b").status == 502, "before the first piece it is a failure like others"
    host.loaded("d", "def handler(event):\n    yield 'half'\n    yield 7\n")
    with connect(host.socket_of("d")) as connection, pytest.raises(http.client.IncompleteRead):
        read_pieces(connection).read()


@pytest.mark.parametrize("word", ["", "async "])
def test_a_generator_is_closed_when_its_reader_leaves(host: Host, word: str) -> None:
    host.loaded("a", f"{word}def handler(event):\n    try:\n        while True:\n            yield 'x' * 65536\n"
                     "    finally:\n        print('left')\n")
    with connect(host.socket_of("a")) as connection:
        assert read_pieces(connection).read(10) == b"x" * 10
    eventually(lambda: "left" in host.messages(call="c-1"), "the generator's end")
    host.loaded("b", "def handler(event): return 'on'\n")
    assert host.call("b").text == "on"
