from __future__ import annotations

import base64
import json
import os
import threading
import time

import pytest

from funcatron_host.logs import (CALL_MAX_BYTES, CUT, LINE_MAX_BYTES, SINK_MAX_BYTES, TAIL_MAX_BYTES, Budget, LogSink,
                                 WorkerLog)
from funcatron_host.streams import KEPT_MAX_BYTES
from harness import Host, Reply, alive, eventually


def test_lines_carry_call_app_fn_revision_and_stream(host: Host) -> None:
    host.loaded("a", "import sys\nprint('importing')\ndef handler(event):\n    print('out')\n    print('err', file=sys.stderr)\n"
                     "    sys.stdout.write('no newline')\n    sys.stdout.buffer.write(b' and bytes')\n")
    host.call("a", call_id="c-1")
    host.call("a", call_id="c-2")
    lines = eventually(lambda: len(host.logs()) >= 7 and host.logs(), "log lines")
    assert all(line["app"] == "shop" and line["fn"] == "orders" and line["revision"] == "a" for line in lines)
    assert [(line["message"], "call" in line) for line in lines][0] == ("importing", False)
    first = sorted((line["level"], line["stream"], line["message"]) for line in lines if line.get("call") == "c-1")
    assert first == [("error", "stderr", "err"), ("info", "stdout", "no newline and bytes"), ("info", "stdout", "out")]
    assert lines[1]["ts"].endswith("Z") and "T" in lines[1]["ts"]


def test_logging_module_lines_carry_the_call(host: Host) -> None:
    host.loaded("a", "import logging\nlogging.basicConfig(level='INFO')\ndef handler(event):\n    logging.info('noted')\n")
    host.call("a", call_id="c-1")
    eventually(lambda: host.messages(call="c-1", message="INFO:root:noted"), "the line")


@pytest.mark.parametrize("source", [
    "import threading\nb = threading.Barrier(2)\ndef handler(event):\n    b.wait()\n    for _ in range(50):\n"
    "        print(event['body'], end='')\n        print('-', event['body'])\n",
    "import asyncio\nasync def handler(event):\n    for _ in range(50):\n        print(event['body'], end='')\n"
    "        await asyncio.sleep(0)\n        print('-', event['body'])\n"])
def test_lines_of_concurrent_calls_are_told_apart(host: Host, source: str) -> None:
    host.loaded("a", source, concurrency=2)
    threads = [threading.Thread(target=host.call, args=("a", name.encode()), kwargs={"call_id": name}) for name in "xy"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name in "xy":
        eventually(lambda: len(host.messages(call=name)) == 50, "all lines")
        assert set(host.messages(call=name)) == {f"{name}- {name}"}


def test_output_of_started_programs_carries_the_call(host: Host) -> None:
    host.loaded("a", "import os, subprocess\ndef handler(event):\n    os.system('echo shell')\n"
                     "    subprocess.run(['sh', '-c', 'echo problem >&2'])\n")
    host.call("a", call_id="c-1")
    eventually(lambda: host.messages(call="c-1", message="shell", stream="stdout"), "stdout of a program")
    eventually(lambda: host.messages(call="c-1", message="problem", stream="stderr"), "stderr of a program")


def test_output_after_a_call_is_not_the_calls(host: Host) -> None:
    host.loaded("a", "import os\ndef handler(event):\n    if event['body'] == 'raw':\n        os.write(1, b'raw\\n')\n"
                     "    else:\n        print('said')\n")
    host.call("a", b"", call_id="c-1")
    host.call("a", b"raw", call_id="c-2")
    eventually(lambda: host.messages(message="raw"), "raw line")
    assert host.messages(message="raw", call="c-1") == []


def test_long_line_is_cut_and_marked(host: Host) -> None:
    host.loaded("a", "def handler(event):\n    print('x' * 100_000)\n    print('after')\n")
    host.call("a", call_id="c-1")
    eventually(lambda: host.messages(message="after", call="c-1"), "the line after")
    long = [m for m in host.messages(call="c-1") if m.startswith("x")]
    assert len(long) == 1 and long[0].endswith(CUT) and len(long[0]) == LINE_MAX_BYTES + len(CUT)


def test_flood_is_bounded_for_each_call_and_blocks_nobody(host: Host) -> None:
    pid = host.loaded("a", "def handler(event):\n    for _ in range(40):\n        print(('z' * 99 + '\\n') * 1000, end='')\n    return 'through'\n")
    host.loaded("b", "def handler(event):\n    print('fine')\n    return 'fine'\n")
    assert host.call("a", call_id="c-1").text == "through"
    assert host.call("b").text == "fine"
    assert host.call("a", call_id="c-2").text == "through" and alive(pid)
    eventually(lambda: len([m for m in host.messages(stream="host") if "log limit" in m]) == 2, "both notices")
    for call in ("c-1", "c-2"):
        size = sum(len(json.dumps(line)) for line in host.logs() if line.get("call") == call)
        assert CALL_MAX_BYTES / 2 < size < 3 * CALL_MAX_BYTES
        assert len(host.messages(call=call, stream="host")) == 1


def test_endless_flood_without_newlines_leaves_the_host_small(host: Host) -> None:
    host.loaded("a", "import os\ndef handler(event):\n    while True: os.write(1, b'x' * 65536)\n")
    host.loaded("b", "def handler(event): return 'fine'\n")

    def resident() -> int:
        with open(f"/proc/{host.process.pid}/status", encoding="ascii") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("VmRSS"))

    before = resident()
    flood = threading.Thread(target=lambda: pytest.raises(Exception, host.call, "a", timeout_s=20))
    flood.start()
    end = time.monotonic() + 2
    while time.monotonic() < end:
        assert host.call("b").text == "fine"
    assert resident() - before < 30_000, "kB"
    assert host.request("kill", "a")["event"] == "killed"
    flood.join()


def test_control_characters_and_broken_utf8_stay_one_json_line(host: Host) -> None:
    host.loaded("a", "import os\ndef handler(event):\n    os.write(1, b'\\xff\\x1b[31m\\r\\n')\n    print('a\\0b\\u2028c')\n")
    host.call("a", call_id="c-1")
    eventually(lambda: host.messages(call="c-1"), "printed line")
    assert host.messages(call="c-1") == ["a\\0b\u2028c"]
    assert "\ufffd\x1b[31m" in host.messages()


def test_crash_leaves_its_last_words(host: Host) -> None:
    host.loaded("a", "import ctypes, faulthandler\nfaulthandler.enable(2)\ndef handler(event):\n    print('near')\n"
                     "    ctypes.string_at(0)\n")
    with pytest.raises(Exception):
        host.call("a")
    event = host.runner.read()
    assert (event["event"], event["signal"]) == ("exited", "SIGSEGV")
    assert "string_at" in event["log"]
    assert "Fatal Python error: Segmentation fault" in host.messages(stream="stderr") and "near" in host.messages()


KEEP = {"Fn-Log": "keep"}


def kept(reply: Reply) -> str:
    return base64.b64decode(reply.header("Fn-Log", "")).decode()


def test_a_call_that_asks_for_its_log_gets_all_it_wrote(host: Host) -> None:
    host.loaded("a", "import logging, sys\nlogging.basicConfig(level='INFO')\ndef handler(event):\n    print('out')\n"
                     "    print('err', file=sys.stderr)\n    logging.info('noted')\n    print('no end', end='')\n"
                     "    if event['body']:\n        raise ValueError('wrong')\n")
    assert kept(host.call("a", headers=KEEP)) == "out\nerr\nINFO:root:noted\nno end\n"
    failed = host.call("a", b"x", headers=KEEP)
    assert failed.status == 502 and "ValueError: wrong" in kept(failed)
    assert host.call("a").header("Fn-Log") is None
    assert kept(host.call("a", headers=KEEP)).count("out") == 1, "another call's is not there"


def test_of_a_long_log_the_end_is_kept(host: Host) -> None:
    host.loaded("a", "def handler(event):\n    for n in range(20000):\n        print(n, '\u00e9')\n")
    log = kept(host.call("a", headers=KEEP))
    assert log.endswith("19998 \u00e9\n19999 \u00e9\n") and KEPT_MAX_BYTES - 1 <= len(log.encode()) <= KEPT_MAX_BYTES


@pytest.mark.parametrize("prefix", ["async ", ""])
def test_logs_of_concurrent_calls_are_each_its_own(host: Host, prefix: str) -> None:
    wait = "await asyncio.sleep(0.001)" if prefix else "time.sleep(0.001)"
    host.loaded("a", f"import asyncio, time\n{prefix}def handler(event):\n    for _ in range(20):\n"
                     f"        print(event['body'])\n        {wait}\n", concurrency=4)
    logs: dict[str, str] = {}

    def call(name: str) -> None:
        logs[name] = kept(host.call("a", name.encode(), headers=KEEP, call_id=name))

    threads = [threading.Thread(target=call, args=(name,)) for name in "wxyz"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert logs == {name: f"{name}\n" * 20 for name in "wxyz"}


def test_a_function_cannot_answer_a_log_of_its_own(host: Host) -> None:
    host.loaded("a", "def handler(event):\n    print('true')\n    return {'statusCode': 200, 'headers': {'Fn-Log': 'Zm9yZ2Vk'}}\n")
    reply = host.call("a", headers=KEEP)
    assert [value for name, value in reply.headers if name.lower() == "fn-log"] == ["dHJ1ZQo="]
    assert host.call("a").header("Fn-Log") is None


def test_the_end_of_a_worker_tells_what_its_calls_had_written(host: Host) -> None:
    host.loaded("a", "import os\ndef handler(event):\n    print('said by', event['body'])\n"
                     "    if event['body'] == 'second':\n        os._exit(3)\n")
    host.call("a", b"first", call_id="c-1")
    with pytest.raises(Exception):
        host.call("a", b"second", call_id="c-2")
    event = host.runner.read()
    assert (event["event"], event["code"], event["calls"]) == ("exited", 3, {"c-2": "said by second\n"})


def test_a_kill_tells_what_its_calls_had_written(host: Host) -> None:
    host.loaded("a", "import time\ndef handler(event):\n    print('begun')\n    time.sleep(60)\n")
    hung = threading.Thread(target=lambda: pytest.raises(Exception, host.call, "a", call_id="c-1"))
    hung.start()
    eventually(lambda: host.messages(call="c-1", message="begun"), "the line")
    assert host.request("kill", "a")["calls"] == {"c-1": "begun\n"}
    hung.join()


class ListSink:
    def __init__(self) -> None:
        self.records: list[dict] = []

    def push(self, record: dict) -> None:
        self.records.append(record)


def test_tail_keeps_the_last_kibibyte() -> None:
    log = WorkerLog(ListSink(), {})
    for number in range(1000):
        log.feed("stdout", f"line {number}\n".encode())
    tail = log.tail()
    assert tail.endswith("line 998\nline 999") and 900 < len(tail.encode()) <= TAIL_MAX_BYTES


def test_what_running_calls_wrote_is_bounded_and_goes_with_their_end() -> None:
    log = WorkerLog(ListSink(), {})
    log.feed("stdout", b"\0a\n" + b"x" * 10_000 + b"\n\0b\n" + b"y" * 10_000 + b"\n")
    assert set(log.of_calls()) == {"b"}
    log.feed("stdout", b"\0\n")
    assert log.of_calls() == {}


def test_marks_split_over_chunks_are_understood() -> None:
    sink = ListSink()
    log = WorkerLog(sink, {})
    for byte in b"a\n\0call-7\nb\n\0\nc\npart\0call-8\nd\n":
        log.feed("stdout", bytes([byte]))
    assert [(r["message"], r.get("call")) for r in sink.records] == [
        ("a", None), ("b", "call-7"), ("c", None), ("part", None), ("d", "call-8")]


def test_forged_marks_with_strange_text_are_logged_as_text() -> None:
    sink = ListSink()
    WorkerLog(sink, {}).feed("stdout", b"\0not a call id\n")
    assert [(r["message"], r.get("call")) for r in sink.records] == [("not a call id", None)]


def test_output_of_nobody_may_go_on_after_its_window() -> None:
    now = [0.0]
    budget = Budget(lambda: now[0])
    assert budget.take("", CALL_MAX_BYTES) and budget.spent("")
    now[0] = 61.0
    assert not budget.spent("") and not budget.take("", 10)


def test_slow_reader_of_stdout_never_blocks_and_is_told_what_it_missed() -> None:
    read, write = os.pipe()
    sink = LogSink(write)
    line = {"message": "x" * 10_000}
    started = time.monotonic()
    for _ in range(3 * SINK_MAX_BYTES // 10_000):
        sink.push(line)
    assert time.monotonic() - started < 10
    got = b""
    while b"too slow" not in got:
        got += os.read(read, 1 << 20)
        if len(got) > SINK_MAX_BYTES // 2:
            sink.push({"message": "late"})
    assert len(got) < 2 * SINK_MAX_BYTES
    os.close(read)
    os.close(write)
