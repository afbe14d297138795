from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
import time

import pytest

from harness import SRC, WAIT_S, Host, Runner, alive, connect, deadline, eventually, post

ECHO = "def handler(ctx, data=None):\n    return data.getvalue()\n"


def test_hello_names_wire_runtime_and_version(host: Host) -> None:
    version = ".".join(map(str, sys.version_info[:3]))
    assert host.runner.version == {"event": "hello", "wire": 1, "runtime": "python", "version": version}


def test_unknown_wire_version_is_refused(host: Host) -> None:
    host.runner.send({"op": "hello", "wire": 2})
    assert host.runner.read()["event"] == "error"


def test_loaded_worker_answers_calls(host: Host) -> None:
    host.loaded("a", ECHO)
    reply = host.call("a", b"hello")
    assert (reply.status, reply.body, reply.header("Fn-Http-Status")) == (200, b"hello", "200")


def test_worker_socket_is_open_to_other_users(host: Host) -> None:
    host.loaded("a", ECHO)
    assert stat.S_IMODE(os.stat(host.socket_of("a")).st_mode) == 0o666


def test_control_socket_mode_is_as_asked(short_dir) -> None:
    host = Host(short_dir, "--control-mode", "0666")
    assert stat.S_IMODE(os.stat(host.control).st_mode) == 0o666
    assert host.stop() == 0


def test_control_socket_is_private_by_default(host: Host) -> None:
    assert stat.S_IMODE(os.stat(host.control).st_mode) == 0o600


def test_import_error_fails_the_load_with_reason_and_log(host: Host) -> None:
    answer = host.load("a", "print('before')\nimport no_such_module\ndef handler(ctx, data): pass\n")
    assert answer["event"] == "failed"
    assert answer["reason"] == "ModuleNotFoundError: No module named 'no_such_module'"
    assert "before" in answer["log"] and "no_such_module" in answer["log"]
    assert "funcatron_host" not in answer["log"]
    assert len(answer["log"].encode()) <= 1024


def test_syntax_error_fails_the_load(host: Host) -> None:
    answer = host.load("a", "def handler(:\n")
    assert answer["event"] == "failed" and answer["reason"].startswith("SyntaxError")


def test_exit_at_import_fails_the_load(host: Host) -> None:
    assert host.load("a", "import sys; sys.exit(3)\n")["reason"] == "SystemExit: 3"
    answer = host.load("b", "import os; os._exit(3)\n")
    assert answer["reason"] == "worker ended while loading: exit code 3"


def test_missing_handler_fails_the_load(host: Host) -> None:
    answer = host.load("a", "x = 1\n")
    assert answer["event"] == "failed" and answer["reason"] == "module 'func' has no attribute 'handler'"


def test_missing_code_directory_fails_the_load(host: Host) -> None:
    answer = host.load("a", ECHO, code="/nowhere/at/all")
    assert answer["event"] == "failed"


def test_load_that_takes_too_long_is_killed(host: Host) -> None:
    started = time.monotonic()
    answer = host.load("a", "print('importing', flush=True)\nwhile True: pass\n", startTimeoutMs=500)
    assert answer["event"] == "failed" and answer["reason"] == "loading took longer than 500 ms"
    assert answer["log"] == "importing"
    assert time.monotonic() - started < 5


def test_failed_revision_can_be_loaded_again(host: Host) -> None:
    assert host.load("a", "boom\n")["event"] == "failed"
    host.loaded("a", ECHO)
    assert host.call("a", b"x").body == b"x"


def test_second_load_of_a_revision_is_refused_and_the_first_serves_on(host: Host) -> None:
    host.loaded("a", ECHO)
    assert host.load("a", ECHO)["reason"] == "revision is already loaded"
    assert host.call("a", b"x").body == b"x"


def test_unload_ends_the_process_and_removes_the_socket(host: Host) -> None:
    pid = host.loaded("a", ECHO)
    assert host.request("unload", "a", graceMs=5000)["event"] == "unloaded"
    assert not alive(pid) and not os.path.exists(host.socket_of("a"))


def test_unload_lets_a_running_call_finish(host: Host) -> None:
    host.loaded("a", "import time\ndef handler(ctx, data):\n    time.sleep(0.5)\n    return 'done'\n")
    with connect(host.socket_of("a")) as connection:
        connection.request("POST", "/call", b"", {"Fn-Call-Id": "c"})
        time.sleep(0.1)
        host.request("unload", "a", graceMs=5000)
        assert connection.getresponse().read() == b"done"


def test_unload_kills_after_the_grace(host: Host) -> None:
    pid = host.loaded("a", "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
                           "def handler(ctx, data):\n    signal.signal(signal.SIGTERM, signal.SIG_IGN)\n")
    host.call("a")
    started = time.monotonic()
    host.request("unload", "a", graceMs=300)
    assert not alive(pid) and 0.2 < time.monotonic() - started < 3


def test_unload_and_kill_of_an_unknown_revision_are_answered(host: Host) -> None:
    assert host.request("unload", "nobody", graceMs=0)["event"] == "unloaded"
    assert host.request("kill", "nobody")["event"] == "killed"


def test_kill_ends_a_hanging_call_and_what_it_forked(host: Host) -> None:
    host.loaded("a", "import subprocess\ndef handler(ctx, data):\n"
                     "    p = subprocess.Popen(['sleep', '1000'])\n"
                     "    open('/tmp/fh-' + data.read().decode(), 'w').write(str(p.pid))\n    while True: pass\n")
    name = os.path.basename(host.directory)
    marker = f"/tmp/fh-{name}"
    with connect(host.socket_of("a")) as connection:
        connection.request("POST", "/call", name.encode(), {"Fn-Call-Id": "c"})
        child = int(eventually(lambda: os.path.exists(marker) and open(marker).read(), "child"))
        assert alive(child)
        assert host.request("kill", "a")["event"] == "killed"
        with pytest.raises(Exception):
            connection.getresponse()
    os.unlink(marker)
    eventually(lambda: not alive(child), "child is killed")


def test_kill_while_loading_fails_the_load(host: Host) -> None:
    code = host.directory / "code"
    code.mkdir()
    (code / "func.py").write_text("while True: pass\n")
    host.runner.send({"op": "load", "id": 1, "revision": "a", "code": str(code), "handler": "handler",
                      "socket": host.socket_of("a"), "app": "shop", "fn": "f"})
    host.runner.send({"op": "kill", "id": 2, "revision": "a"})
    first, second = host.runner.read(), host.runner.read()
    assert (first["event"], first["id"], first["reason"]) == ("failed", 1, "killed while it was loading")
    assert (second["event"], second["id"]) == ("killed", 2)


def test_worker_that_exits_is_reported_with_its_code(host: Host) -> None:
    host.loaded("a", "import os\ndef handler(ctx, data):\n    print('bye')\n    os._exit(7)\n")
    with pytest.raises(Exception):
        host.call("a")
    event = host.runner.read()
    assert event == {"event": "exited", "revision": "a", "code": 7, "signal": None, "log": "bye",
                     "calls": {"call-1": "bye\n"}}


def test_worker_killed_from_outside_is_reported_with_its_signal(host: Host) -> None:
    pid = host.loaded("a", ECHO)
    os.kill(pid, signal.SIGKILL)
    event = host.runner.read()
    assert (event["event"], event["code"], event["signal"]) == ("exited", None, "SIGKILL")
    host.loaded("a", ECHO)


def test_new_connection_kills_every_worker_before_hello(host: Host) -> None:
    pids = [host.loaded(name, ECHO) for name in ("a", "b")]
    runner = Runner(host.control)
    assert runner.version["event"] == "hello"
    assert not any(alive(pid) for pid in pids)
    assert host.runner.read() is None, "the old runner's connection is closed"
    host.runner = runner
    host.loaded("a", ECHO)


def test_workers_outlive_a_closed_connection_until_the_next_one(host: Host) -> None:
    pid = host.loaded("a", ECHO)
    host.runner.close()
    assert host.call("a", b"x").body == b"x" and alive(pid)
    host.runner = Runner(host.control)
    assert not alive(pid)


def test_new_connection_ends_a_load_under_way(host: Host) -> None:
    code = host.directory / "code"
    code.mkdir()
    (code / "func.py").write_text("print('up', flush=True)\nwhile True: pass\n")
    host.runner.send({"op": "load", "id": 1, "revision": "a", "code": str(code), "handler": "handler",
                      "socket": host.socket_of("a"), "app": "shop", "fn": "f"})
    eventually(lambda: host.messages(message="up"), "import began")
    host.runner = Runner(host.control)
    host.loaded("a", ECHO)


def test_line_above_the_limit_closes_the_connection(host: Host) -> None:
    try:
        host.runner.sock.sendall(b"x" * (1024 * 1024 + 10) + b"\n")
        assert host.runner.read() is None
    except (BrokenPipeError, ConnectionResetError):
        pass
    host.runner = Runner(host.control)
    host.loaded("a", ECHO)


@pytest.mark.parametrize("line", [b"not json\n", b"[]\n", b"\xff\xfe\n", b"null\n"])
def test_line_that_is_no_object_closes_the_connection(host: Host, line: bytes) -> None:
    host.runner.sock.sendall(line)
    try:
        assert host.runner.read() is None
    except ConnectionResetError:
        pass
    host.runner = Runner(host.control)


@pytest.mark.parametrize("fields", [
    {"concurrency": 0}, {"concurrency": "1"}, {"env": {"A": 1}}, {"env": {"A=B": "x"}}, {"env": []},
    {"memoryBytes": -1}, {"startTimeoutMs": True}, {"handler": 7}, {"socket": ""}, {"code": None}, {"app": 1}])
def test_invalid_load_is_answered_with_an_error(host: Host, fields: dict) -> None:
    answer = host.load("a", ECHO, **fields)
    assert answer["event"] == "error" and next(iter(fields)) in answer["reason"]


def test_unknown_op_is_answered_with_an_error(host: Host) -> None:
    assert host.request("dance", "a")["event"] == "error"


def test_revision_with_a_path_in_it_is_refused(host: Host) -> None:
    assert host.request("kill", "../x")["event"] == "error"


def test_socket_path_that_is_too_long_fails_the_load(host: Host) -> None:
    answer = host.load("a", ECHO, socket=str(host.directory / ("s" * 120)))
    assert answer["event"] == "failed" and "107" in answer["reason"]


def test_environment_is_clean(own_host: Host) -> None:
    host = own_host
    assert host.stop() == 0
    host.__init__(host.directory, env={"AMQP_URL": "amqp://secret", "FUNCATRON_X": "y"})
    host.loaded("a", "import os\ndef handler(event):\n    initial = open('/proc/self/environ').read()\n"
                     "    return {'env': dict(os.environ), 'initial': initial, 'cwd': os.getcwd()}\n",
                env={"GREETING": "hello", "Mixed_Case": "kept", "FN_LISTENER": "nonsense"}, memoryBytes=256 << 20)
    answer = host.call("a").json
    env = answer["env"]
    assert set(env) == {"PATH", "HOME", "LANG", "TZ", "PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE", "GREETING",
                        "Mixed_Case", "FN_APP_NAME", "FN_APP_ID", "FN_FN_NAME", "FN_FN_ID", "FN_FORMAT",
                        "FN_LISTENER", "FN_MEMORY", "FN_TYPE", "LC_CTYPE"} - ({"LC_CTYPE"} - set(env)) | (
                            {"TMPDIR"} & set(env))
    assert (env["GREETING"], env["Mixed_Case"], env["FN_MEMORY"]) == ("hello", "kept", "256")
    assert (env["FN_APP_NAME"], env["FN_FN_NAME"], env["FN_FORMAT"]) == ("shop", "orders", "http-stream")
    assert env["FN_LISTENER"] == f"unix:{host.socket_of('a')}"
    assert "secret" not in answer["initial"] and "FUNCATRON" not in answer["initial"]
    assert answer["cwd"] == str(host.directory / "code-a")


def test_environment_of_one_revision_is_not_seen_by_another(host: Host) -> None:
    host.loaded("a", ECHO, env={"SECRET": "hidden-value"})
    host.loaded("b", "import gc, os\ndef handler(event):\n"
                     "    return {'env': 'SECRET' in os.environ, 'heap': any(o == 'hidden-value' for d in "
                     "gc.get_objects() if isinstance(d, dict) for o in list(d.values()) if isinstance(o, str))}\n")
    assert host.call("b").json == {"env": False, "heap": False}
    assert "hidden-value" not in host.log_path.read_text()


def test_worker_holds_no_descriptor_of_the_host(host: Host) -> None:
    host.loaded("other", ECHO)
    host.loaded("a", "import os\ndef handler(event):\n"
                     "    return sorted(os.readlink('/proc/self/fd/' + f).split(':')[0] for f in os.listdir('/proc/self/fd')"
                     " if os.path.islink('/proc/self/fd/' + f))\n")
    kinds = host.call("a").json
    assert len([k for k in kinds if k == "socket"]) == 3, kinds  # channel, listener, this connection
    assert not any("host.log" in kind or "c.sock" in kind for kind in kinds)


def test_memory_limit_ends_the_call_not_the_worker(host: Host) -> None:
    pid = host.loaded("a", "def handler(ctx, data):\n    return str(len(bytearray(int(data.read()))))\n",
                      memoryBytes=128 << 20)
    reply = host.call("a", b"400000000")
    assert reply.status == 502 and reply.json == {"message": "function failed: MemoryError"}
    assert host.call("a", b"1000").body == b"1000" and alive(pid)


def test_killed_fork_server_fails_its_workers_and_comes_back(own_host: Host) -> None:
    host = own_host
    pid = host.loaded("a", ECHO)
    with open(f"/proc/{pid}/stat", encoding="ascii") as file:
        parent = int(file.read().rpartition(")")[2].split()[1])
    os.kill(parent, signal.SIGKILL)
    event = host.runner.read()
    assert (event["event"], event["code"], event["signal"]) == ("exited", None, None)
    eventually(lambda: not alive(pid), "worker is gone")
    host.loaded("a", ECHO)
    assert host.call("a", b"x").body == b"x"


def test_stopped_fork_server_is_replaced(own_host: Host) -> None:
    host = own_host
    pid = host.loaded("a", ECHO)
    with open(f"/proc/{pid}/stat", encoding="ascii") as file:
        parent = int(file.read().rpartition(")")[2].split()[1])
    os.kill(parent, signal.SIGSTOP)
    host.runner.send({"op": "kill", "id": 77, "revision": "a"})
    answer = host.runner.read()
    assert (answer["event"], answer["id"]) == ("killed", 77)
    eventually(lambda: not alive(pid), "worker is gone")
    host.loaded("b", ECHO)


def test_sigterm_ends_host_and_workers(own_host: Host) -> None:
    host = own_host
    pids = [host.loaded(name, ECHO) for name in ("a", "b")]
    host.process.send_signal(signal.SIGTERM)
    assert host.process.wait(WAIT_S) == 0
    assert not any(alive(pid) for pid in pids)
    assert not os.path.exists(host.control)


def test_sigterm_with_a_runner_connected_is_silent(short_dir) -> None:
    host = Host(short_dir)
    host.process.send_signal(signal.SIGTERM)
    assert host.process.wait(WAIT_S) == 0
    assert host.errors() == ""


def test_sigterm_kills_after_the_grace(short_dir) -> None:
    host = Host(short_dir, "--grace-ms", "300")
    pid = host.loaded("a", "def handler(ctx, data):\n    while True: pass\n")
    with connect(host.socket_of("a")) as connection:
        connection.request("POST", "/call", b"", {"Fn-Call-Id": "c"})
        time.sleep(0.05)
        assert host.stop() == 0
    assert not alive(pid)


def test_killed_host_takes_its_workers_along(own_host: Host) -> None:
    host = own_host
    pid = host.loaded("a", "def handler(ctx, data):\n    while True: pass\n")
    with connect(host.socket_of("a")) as connection:
        connection.request("POST", "/call", b"", {"Fn-Call-Id": "c"})
        host.process.kill()
        host.process.wait(WAIT_S)
        eventually(lambda: not alive(pid), "worker ends with its host")


def test_host_ends_with_its_stdin_when_asked(short_dir) -> None:
    control = str(short_dir / "c.sock")
    process = subprocess.Popen([sys.executable, "-m", "funcatron_host", "--control", control, "--exit-with-stdin"],
                               env={**os.environ, "PYTHONPATH": str(SRC), "PYTHONDONTWRITEBYTECODE": "1"},
                               stdin=subprocess.PIPE)
    eventually(lambda: os.path.exists(control), "control socket")
    process.stdin.close()
    assert process.wait(WAIT_S) == 0


def test_many_revisions_live_side_by_side(host: Host) -> None:
    for number in range(20):
        host.loaded(f"r{number}", f"def handler(ctx, data):\n    return '{number}'\n")
    assert [host.call(f"r{number}").text for number in range(20)] == [str(number) for number in range(20)]


def test_stale_control_socket_is_replaced(short_dir) -> None:
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(short_dir / "c.sock"))
    stale.close()
    host = Host(short_dir)
    host.loaded("a", ECHO)
    assert host.stop() == 0


def test_call_past_its_deadline_is_not_run(host: Host) -> None:
    host.loaded("a", "def handler(ctx, data):\n    print('ran')\n")
    assert host.call("a", headers={"Fn-Deadline": deadline(-1)}).status == 504
    with connect(host.socket_of("a")) as connection:
        assert post(connection).status == 200
    eventually(lambda: host.messages(message="ran"), "the second call ran")
    assert len(host.messages(message="ran")) == 1
