"""The published `wrenn` SDK against a server, as an application's author would use it: only its environment variables
are set. Which of its methods a test reached, and which statuses the server answered with, is seen by the interpreter's
own profiler, so nothing of the SDK is changed. Writes what it found to standard output, as JSON."""

import asyncio
import contextlib
import datetime
import importlib
import inspect
import json
import os
import queue
import sys
import threading
import time

import httpx
import published_sdk
import wrenn
import wrenn.code_runner
from published_sdk import araises, code_of, raises, test
from wrenn import AsyncCapsule, AsyncWrennClient, Capsule, WrennClient
from wrenn.client import (
    AsyncCapsulesResource, AsyncEventsResource, AsyncSnapshotsResource, CapsulesResource, EventsResource,
    SnapshotsResource,
)
from wrenn.commands import AsyncCommands, Commands
from wrenn.files import AsyncFiles, Files
from wrenn.pty import AsyncPtySession, PtySession

CLASSES = [
    Capsule, Commands, Files, wrenn.Git, PtySession, WrennClient, CapsulesResource, SnapshotsResource, EventsResource,
    AsyncCapsule, AsyncCommands, AsyncFiles, wrenn.AsyncGit, AsyncPtySession, AsyncWrennClient, AsyncCapsulesResource,
    AsyncSnapshotsResource, AsyncEventsResource, wrenn.code_runner.Capsule, wrenn.code_runner.AsyncCapsule,
]


def functions(cls):
    """Every public method of a class that the SDK itself wrote, as name and code objects."""
    found = {}
    for base in reversed(cls.__mro__):
        if not base.__module__.startswith("wrenn"):
            continue
        for name, value in vars(base).items():
            if name.startswith("_"):
                continue
            if type(value).__name__ in ("_DualMethod", "_AsyncDualMethod"):
                parts = [part for key, part in vars(value).items() if key != "_name" and isinstance(part, str)]
                for part in parts:
                    member = inspect.getattr_static(cls, part, None)
                    if member is not None:
                        kind = "class" if isinstance(member, (classmethod, staticmethod)) else "instance"
                        found[f"{name} ({kind})"] = code_of(member)
                continue
            code = code_of(value)
            if code is not None:
                found[name] = code
    return found


METHODS = {}
for cls in CLASSES:
    where = "code_runner." if cls.__module__.startswith("wrenn.code_runner") else ""
    for name, code in functions(cls).items():
        inherited = where and code in {c for base in (Capsule, AsyncCapsule) for c in functions(base).values()}
        if not inherited:
            METHODS.setdefault(code, f"{where}{cls.__name__}.{name}")

reached, answered = {}, {}


def watch(frame, event, _):
    if event != "call" or published_sdk.current is None:
        return
    code = frame.f_code
    if code in METHODS:
        reached.setdefault(METHODS[code], set()).add(published_sdk.current)
    elif code.co_name == "_raise_for_status":
        note(frame.f_locals.get("resp"))


def note(response):
    request = response.request
    path = request.url.path
    parts = path.split("/")
    for index, part in enumerate(parts):
        if index == 3 and part not in ("stats", "usage", "stream"):
            parts[index] = "{name}" if parts[2] == "snapshots" else "{id}"
        if index == 5 and parts[4] == "processes":
            parts[index] = "{process}"
    key = f"{request.method} {'/'.join(parts)} {response.status_code}"
    answered.setdefault(key, set()).add(published_sdk.current)


def until(what, condition, seconds=30):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.1)
    raise AssertionError(f"{what}: not in {seconds} s")


UNKNOWN = "sb" + "0" * 20

# ── synchronous ───────────────────────────────────────────────────────────────


@test
def a_capsule_has_the_documented_defaults():
    with Capsule(wait=True) as capsule:
        info = capsule.get_info()
        assert info.id == capsule.capsule_id and capsule.info == info
        assert (info.status, info.template, info.vcpus, info.memory_mb, info.timeout_sec) == (
            "running", "minimal-ubuntu", 1, 512, 0), info
        assert info.created_at.tzinfo and info.started_at and info.disk_size_mb
        assert capsule.is_running()
        assert any(one.id == info.id for one in Capsule.list())
        assert Capsule.get_info(info.id).status == "running"
        capsule.ping()
        assert capsule.get_url(8080).endswith(f"8080-{info.id}." + os.environ["WRENN_PROXY_DOMAIN"])
        assert capsule.commands.run("whoami").stdout.strip() == "wrenn-user"
        assert capsule.commands.run("pwd").stdout.strip() == "/home/wrenn-user"
        assert capsule.commands.run("sudo whoami").stdout.strip() == "root"
    assert Capsule.get_info(info.id).status in ("stopped", "stopping")
    assert all(one.id != info.id for one in Capsule.list())


@test
def a_capsule_is_paused_resumed_connected_and_destroyed():
    capsule = Capsule.create(vcpus=2, memory_mb=256, timeout=5, wait=True)
    assert (capsule.info.vcpus, capsule.info.memory_mb, capsule.info.timeout_sec) == (2, 256, 60)
    capsule.commands.run("echo kept > /tmp/kept")
    assert capsule.pause(wait=True).status == "paused"
    raises(wrenn.WrennConflictError, capsule.ping)
    raises(wrenn.WrennConflictError, capsule.pause)
    assert capsule.resume(wait=True).status == "running"
    raises(wrenn.WrennConflictError, capsule.resume)
    assert Capsule.pause(capsule.capsule_id, wait=True).status == "paused"
    same = Capsule.connect(capsule.capsule_id)
    assert same.is_running() and same.files.read("/tmp/kept") == "kept\n"
    Capsule.pause(capsule.capsule_id)
    assert Capsule.resume(capsule.capsule_id, wait=True).status == "running"
    same.wait_ready()
    same.destroy(wait=True)
    Capsule.destroy(capsule.capsule_id, wait=True)
    raises(wrenn.WrennNotFoundError, lambda: Capsule.destroy(UNKNOWN))


@test
def wrong_requests_raise_what_the_sdk_documents():
    with WrennClient() as client:
        assert client.http.base_url
        raises(wrenn.WrennNotFoundError, lambda: client.capsules.get(UNKNOWN))
        for call in (client.capsules.pause, client.capsules.resume, client.capsules.ping, client.capsules.metrics):
            raises(wrenn.WrennNotFoundError, lambda: call(UNKNOWN))
        raises(wrenn.WrennNotFoundError, lambda: client.capsules.create(template="no-such-template"))
        raises(wrenn.WrennValidationError, lambda: client.capsules.create(vcpus=1000))
        raises(wrenn.WrennValidationError, lambda: client.capsules.stats("1y"))
        raises(wrenn.WrennValidationError, lambda: client.capsules.usage("2026-01-01", "2027-01-01"))
        raises(wrenn.WrennValidationError, lambda: client.capsules.metrics(shared().capsule_id, "1y"))
        raises(wrenn.WrennNotFoundError, lambda: Commands(UNKNOWN, client.http).list())
        raises(wrenn.WrennNotFoundError, lambda: Commands(UNKNOWN, client.http).run("true"))
        raises(wrenn.WrennNotFoundError, lambda: Files(UNKNOWN, client.http).read("/x"))
        raises(wrenn.WrennNotFoundError, lambda: Files(UNKNOWN, client.http).write("/x", "y"))
    client = WrennClient()
    client.close()


kept = []


def shared():
    """One capsule for all tests that leave nothing in it that matters."""
    if not kept:
        kept.append(Capsule(wait=True))
    return kept[0]


@test
def commands_run_and_say_how_they_ended():
    commands = shared().commands
    result = commands.run("echo out; echo err >&2; exit 3")
    assert (result.stdout, result.stderr, result.exit_code) == ("out\n", "err\n", 3) and result.duration_ms >= 0
    assert commands.run("echo $A; pwd", envs={"A": "b c"}, cwd="/tmp").stdout == "b c\n/tmp\n"
    assert commands.run("echo $A").stdout == "\n"
    assert commands.run("printf 'a\\377'").stdout is not None
    assert commands.run("no-such-program").exit_code == 127
    raises(wrenn.WrennError, lambda: commands.run("true", cwd="/no/such/directory"))
    began = time.monotonic()
    raises(wrenn.WrennError, lambda: commands.run("sleep 60", timeout=2))
    assert time.monotonic() - began < 20


@test
def background_commands_are_listed_followed_and_killed():
    commands = shared().commands
    handle = commands.run("echo started; sleep 300", background=True, tag="job-1")
    assert (handle.tag, handle.capsule_id) == ("job-1", shared().capsule_id) and handle.pid > 0
    mine = [one for one in commands.list() if one.pid == handle.pid]
    assert len(mine) == 1 and mine[0].tag == "job-1" and mine[0].cmd == "/bin/sh", mine
    ticking = commands.run("while true; do echo tick; sleep 0.2; done", background=True)
    assert ticking.tag.startswith("proc-")
    seen = []
    for event in commands.connect(ticking.pid):
        seen.append(event.type)
        if event.type == "stdout":
            assert "tick" in event.data
            break
    assert seen[0] == "start", seen
    for one in (handle, ticking):
        commands.kill(one.pid)
    until("both to be gone", lambda: not {handle.pid, ticking.pid} & {one.pid for one in commands.list()}, 5)
    raises(wrenn.WrennNotFoundError, lambda: commands.kill(handle.pid))


@test
def live_output_arrives_while_a_command_runs():
    events = list(shared().commands.stream("echo one; sleep 0.2; echo two >&2; exit 4"))
    assert [event.type for event in events][0] == "start" and events[-1].type == "exit", events
    assert events[-1].exit_code == 4
    assert "".join(event.data for event in events if event.type == "stdout") == "one\n"
    assert "".join(event.data for event in events if event.type == "stderr") == "two\n"
    events = list(shared().commands.stream("printf", ["%s", "a b"]))
    assert [event.data for event in events if event.type == "stdout"] == ["a b"]


@test
def files_are_written_read_listed_and_removed():
    files = shared().files
    files.write("/tmp/dir/sub/text", "gr\u00fc\u00df\n")
    assert files.read("/tmp/dir/sub/text") == "gr\u00fc\u00df\n"
    files.write("/tmp/dir/bytes", bytes(range(256)))
    assert files.read_bytes("/tmp/dir/bytes") == bytes(range(256))
    files.write("/tmp/dir/bytes", b"")
    assert files.read_bytes("/tmp/dir/bytes") == b""
    names = {entry.name: entry for entry in files.list("/tmp/dir")}
    assert set(names) == {"sub", "bytes"} and names["sub"].type == "directory" and names["bytes"].type == "file"
    assert names["bytes"].permissions.startswith("-rw") and abs(names["bytes"].modified_at - time.time()) < 300
    assert "/tmp/dir/sub/text" in {entry.path for entry in files.list("/tmp/dir", depth=2)}
    assert files.exists("/tmp/dir/sub") and not files.exists("/tmp/dir/none") and not files.exists("/none/none")
    made = files.make_dir("/tmp/dir/a/b/c")
    assert made.type == "directory" and made.path == "/tmp/dir/a/b/c"
    assert files.make_dir("/tmp/dir/a/b/c").name == "c", "idempotent"
    files.remove("/tmp/dir")
    assert not files.exists("/tmp/dir")
    for call in (files.read, files.read_bytes, files.list, files.remove):
        raises(wrenn.WrennNotFoundError, lambda: call("/tmp/dir"))
    raises(wrenn.WrennValidationError, lambda: files.read("/tmp"))
    raises(wrenn.WrennValidationError, lambda: files.list(""))


@test
def large_files_are_streamed_both_ways():
    files = shared().files
    chunk = os.urandom(1 << 16)
    files.upload_stream("/tmp/large", (chunk for _ in range(64)))
    assert b"".join(files.download_stream("/tmp/large")) == chunk * 64
    raises(httpx.HTTPStatusError, lambda: list(files.download_stream("/tmp/none")))


def text_until(term, wanted):
    text = b""
    for event in term:
        if event.type == "output":
            text += event.data
        if wanted in text:
            return text
        assert event.type not in ("exit", "error"), (event, text)
    raise AssertionError(f"{wanted!r} did not come: {text!r}")


@test
def a_terminal_is_used_resized_left_and_joined_again():
    capsule = shared()
    with capsule.pty(cols=91, rows=33, cwd="/tmp", envs={"MARK": "here"}) as term:
        assert next(term).type == "started"
        assert term.tag.startswith("pty-") and term.pid > 0
        term.write(b"echo $MARK-$(pwd)-$(stty size)\n")
        text_until(term, b"here-/tmp-33 91")
        term.resize(120, 40)
        term.write(b"echo size-$(stty size)\n")
        text_until(term, b"size-40 120")
        with capsule.pty_connect(term.tag) as again:
            assert next(again).type == "started" and again.pid == term.pid
            again.write(b"echo again-$((6*7))\n")
            text_until(again, b"again-42")
            again.kill()
            assert list(again)[-1].type == "exit"
    until("the shell to be gone", lambda: term.pid not in {one.pid for one in capsule.commands.list()}, 10)


@test
def a_program_in_a_terminal_ends_with_its_exit_code():
    with shared().pty(cmd="/bin/sh", args=["-c", "echo bye; exit 3"]) as term:
        events = list(term)
    assert events[-1].type == "exit" and events[-1].exit_code == 3, events
    with shared().pty() as term:
        next(term)
        term.kill()
        assert list(term)[-1].type == "exit"
    with shared().pty_connect("pty-none") as term:
        event = next(term)
        assert event.type == "error" and event.fatal


@test
def git_works_in_a_capsule():
    git, commands = shared().git, shared().commands
    work, bare = "/tmp/git/work", "/tmp/git/bare"
    git.configure_user("A", "a@example.org")
    git.init(bare, bare=True, initial_branch="main")
    git.init(work, initial_branch="main")
    shared().files.write(f"{work}/one", "1")
    status = git.status(cwd=work)
    assert [one.path if hasattr(one, "path") else one for one in status.files] == ["one"], status
    git.add(all=True, cwd=work)
    git.commit("first", cwd=work)
    git.remote_add("origin", bare, cwd=work)
    assert git.remote_get("origin", cwd=work) == bare
    git.push("origin", "main", set_upstream=True, cwd=work)
    git.create_branch("topic", cwd=work)
    git.checkout_branch("main", cwd=work)
    assert {branch.name for branch in git.branches(cwd=work)} == {"main", "topic"}
    git.delete_branch("topic", force=True, cwd=work)
    git.clone(bare, "/tmp/git/clone")
    git.pull("origin", "main", cwd="/tmp/git/clone")
    git.set_config("core.note", "x", cwd=work)
    assert git.get_config("core.note", cwd=work) == "x"
    shared().files.write(f"{work}/one", "2")
    git.restore(["one"], cwd=work)
    assert shared().files.read(f"{work}/one") == "1"
    git.reset(mode="hard", cwd=work)
    git.dangerously_authenticate("user", "password", host="git.example.org", cwd=work)
    raises(wrenn.GitError, lambda: git.checkout_branch("none", cwd=work))
    commands.run("rm -rf /tmp/git")


@test
def statistics_have_real_numbers():
    capsule = shared()
    with WrennClient() as client:
        stats = client.capsules.stats()
        assert stats.range == "1h" and stats.current.running_count >= 1
        assert stats.current.memory_mb_reserved >= 512 and stats.peaks.vcpus >= stats.current.vcpus_reserved >= 1
        assert len(stats.series.labels) == len(stats.series.running) == len(stats.series.vcpus) > 100
        for name in ("5m", "6h", "24h", "30d"):
            assert client.capsules.stats(name).range == name
        points = until("usage", lambda: client.capsules.usage().points, 60)
        assert points[-1].date == datetime.datetime.now(datetime.UTC).date() and points[-1].cpu_minutes > 0
        assert client.capsules.usage("2026-01-01", datetime.date(2026, 1, 31)).points == []
        metrics = client.capsules.metrics(capsule.capsule_id)
        assert metrics.range == "10m" and metrics.sandbox_id == capsule.capsule_id
        point = until("a point", lambda: client.capsules.metrics(capsule.capsule_id, "5m").points)[-1]
        assert 0 <= point.cpu_pct <= 100 and point.mem_bytes > 1 << 20 and point.disk_bytes > 0


@test
def events_arrive_while_they_happen():
    seen, connected = [], threading.Event()
    client = WrennClient()

    def listen():
        for event in client.events.stream():
            seen.append(event)
            if event.event == "connected":
                connected.set()
            if event.event == "capsule.destroy":
                return

    thread = threading.Thread(target=listen, daemon=True)
    threading.setprofile(watch)
    thread.start()
    assert connected.wait(20)
    with Capsule(wait=True) as capsule:
        capsule.pause(wait=True)
        capsule.resume(wait=True)
    thread.join(30)
    threading.setprofile(None)
    assert not thread.is_alive()
    mine = [event for event in seen if event.resource and event.resource.id == capsule.capsule_id]
    actions = [event.event for event in mine if event.event != "capsule.state.changed"]
    assert actions == ["capsule.create", "capsule.pause", "capsule.resume", "capsule.destroy"], actions
    assert all(event.outcome == "success" for event in mine if event.event != "capsule.state.changed")
    assert {"from": "running", "to": "pausing"} in [event.metadata for event in mine]
    assert all(event.actor.type and event.timestamp.tzinfo and event.sandbox.id for event in mine)
    client.close()


@test
def snapshots_are_made_listed_replaced_used_and_deleted():
    with WrennClient() as client, Capsule(wait=True) as capsule:
        names = [template.name for template in client.snapshots.list()]
        assert "minimal-ubuntu" in names and client.snapshots.list("snapshot") == []
        raises(wrenn.WrennForbiddenError, lambda: client.snapshots.delete("minimal-ubuntu"))
        raises(wrenn.WrennNotFoundError, lambda: client.snapshots.delete("none"))
        raises(wrenn.WrennNotFoundError, lambda: client.snapshots.create(UNKNOWN))
        raises(wrenn.WrennValidationError, lambda: client.snapshots.create(capsule.capsule_id, name="a/b"))
        raises(wrenn.WrennConflictError, lambda: client.snapshots.create(capsule.capsule_id, name="minimal-ubuntu"))

        capsule.commands.run("echo first > /tmp/state")
        ready(client, capsule.create_snapshot("Mine"))
        raises(wrenn.WrennConflictError, lambda: capsule.create_snapshot("Mine"))
        capsule.commands.run("echo second > /tmp/state")
        made = ready(client, client.snapshots.create(capsule.capsule_id, name="Mine", overwrite=True))
        assert (made.name, made.type, made.platform, made.protected) == ("Mine", "snapshot", False, False), made
        assert (made.vcpus, made.memory_mb) == (1, 512) and made.size_bytes > 0 and made.created_at.tzinfo
        assert [template.name for template in client.snapshots.list("base")] == names
        capsule.commands.run("echo third > /tmp/state")
        assert capsule.is_running(), "it went on as it was"

        with Capsule(template="Mine", wait=True) as child:
            assert child.files.read("/tmp/state") == "second\n"
            assert child.commands.run("whoami").stdout.strip() == "wrenn-user"
            raises(wrenn.WrennConflictError, lambda: client.snapshots.delete("Mine"))
        assert capsule.files.read("/tmp/state") == "third\n"
        unnamed = ready(client, capsule.create_snapshot())
        client.snapshots.delete("Mine")
        client.snapshots.delete(unnamed.name)
        raises(wrenn.WrennNotFoundError, lambda: client.snapshots.delete("Mine"))
        assert client.snapshots.list("snapshot") == []


def ready(client, made):
    """A snapshot as it is once it is ready: a slow machine answers before that."""
    def found():
        named = [one for one in client.snapshots.list("snapshot") if one.name == made.name]
        return named[0] if named and named[0].size_bytes else None
    return until(f"snapshot {made.name} is ready", found)


RICH = """
from IPython.display import HTML, Markdown, Latex, SVG, JSON, Javascript, Image, display
import base64
png = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==")
svg = "<svg xmlns='http://www.w3.org/2000/svg'/>"
display(HTML("<b>x</b>"), Markdown("*x*"), Latex("$x$"), SVG(svg), JSON({"a": 1}), Javascript("1"), Image(png))
"the last"
"""


@test
def the_code_runner_runs_code_and_remembers():
    with wrenn.code_runner.Capsule(wait=True) as capsule:
        first = capsule.run_code("import sys\nx = 20\nprint('out'); print('err', file=sys.stderr)\nx + 1")
        assert (first.text, first.error, first.timed_out) == ("21", None, False), first
        assert ("".join(first.logs.stdout), "".join(first.logs.stderr)) == ("out\n", "err\n"), first
        assert first.results[0].is_main_result and first.execution_count == 1
        assert capsule.run_code("x += 1; x").text == "21", "state stays between runs"
        failed = capsule.run_code("1 / 0")
        assert failed.error.name == "ZeroDivisionError" and failed.error.value == "division by zero"
        assert "ZeroDivisionError" in failed.error.traceback and failed.results == []
        seen = {"out": [], "err": [], "result": [], "error": []}
        capsule.run_code(
            "print('a'); print('b', file=sys.stderr); 3", on_stdout=seen["out"].append, on_stderr=seen["err"].append,
            on_result=seen["result"].append, on_error=seen["error"].append)
        assert (seen["out"], seen["err"], seen["result"][0].text, seen["error"]) == (["a\n"], ["b\n"], "3", []), seen
        rich = capsule.run_code(RICH)
        kinds = [kind for result in rich.results for kind in result.formats() if kind != "text"]
        assert kinds == ["html", "markdown", "latex", "svg", "json", "javascript", "png"], rich
        assert rich.text == "'the last'" and rich.results[0].html == "<b>x</b>" and rich.results[4].json == {"a": 1}
        # The SDK lets its own queue's word for "too late" out here; its asynchronous half says `timed_out`.
        raises(queue.Empty, lambda: capsule.run_code("import time; time.sleep(60)", timeout=1))
        raises(ValueError, lambda: capsule.run_code("1", language="r"))
        capsule.close()
        assert [one.tag for one in capsule.commands.list()] == ["start"], "the template's own command"


@test
def code_runners_begin_alike_and_draw_other_numbers():
    one, other = wrenn.code_runner.Capsule(wait=True), wrenn.code_runner.Capsule.create(wait=True)
    drawn = [capsule.run_code("import random; random.random()").text for capsule in (one, other)]
    assert drawn[0] != drawn[1] and all(drawn), drawn
    one.pause(wait=True)
    one.close()
    one.resume(wait=True)
    same = wrenn.code_runner.Capsule.connect(one.capsule_id)
    assert same.run_code("random.seed(1); random.random()").text == "0.13436424411240122", "the kernel went on"
    for capsule in (same, other):
        capsule.destroy(wait=True)


@test
def the_ports_of_a_capsule_have_addresses():
    capsule = wrenn.code_runner.Capsule(wait=True)
    key = {"X-API-Key": os.environ["WRENN_API_KEY"]}
    server = httpx.get(capsule.get_url(8888) + "/api", headers=key, timeout=30)
    assert server.status_code == 200 and "version" in server.json(), server.text
    closed = httpx.get(capsule.get_url(9999), headers=key)
    assert (closed.status_code, closed.text) == (502, "The sandbox is running but port is not open\n")
    Capsule.pause(capsule.capsule_id, wait=True)
    assert httpx.get(capsule.get_url(8888), headers=key).status_code == 409
    capsule.destroy(wait=True)
    unknown = capsule.get_url(8888).replace(capsule.capsule_id, UNKNOWN)
    assert httpx.get(unknown, headers=key).status_code == 404

# ── asynchronous ──────────────────────────────────────────────────────────────


@test
async def async_a_capsule_from_its_creation_to_its_end():
    async with await AsyncCapsule.create(wait=True) as capsule:
        info = await capsule.get_info()
        assert info.status == "running" and capsule.info.id == capsule.capsule_id
        assert await capsule.is_running()
        await capsule.ping()
        assert any(one.id == info.id for one in await AsyncCapsule.list())
        assert (await AsyncCapsule.get_info(info.id)).status == "running"
        assert str(8080) in capsule.get_url(8080)
        assert (await capsule.pause(wait=True)).status == "paused"
        assert (await capsule.resume(wait=True)).status == "running"
        await AsyncCapsule.pause(info.id, wait=True)
        same = await AsyncCapsule.connect(info.id)
        await AsyncCapsule.pause(info.id)
        await AsyncCapsule.resume(info.id, wait=True)
        await same.wait_ready()
        await same.destroy(wait=True)
    await AsyncCapsule.destroy(info.id, wait=True)


async def ashared():
    return await AsyncCapsule.connect(shared().capsule_id)


@test
async def async_commands():
    commands = (await ashared()).commands
    assert (await commands.run("echo $A", envs={"A": "x"}, cwd="/")).stdout == "x\n"
    handle = await commands.run("while true; do echo tick; sleep 0.2; done", background=True, tag="job-2")
    assert handle.pid in {one.pid for one in await commands.list()}
    is_killed = False
    async for event in commands.connect(handle.pid):
        if event.type == "stdout" and not is_killed:
            await commands.kill(handle.pid)
            is_killed = True
    assert is_killed
    events = [event async for event in commands.stream("echo one; exit 5")]
    assert events[-1].type == "exit" and events[-1].exit_code == 5


@test
async def async_files():
    files = (await ashared()).files

    async def chunks():
        for _ in range(16):
            yield b"x" * 65536

    await files.write("/tmp/async/a", "text")
    assert await files.read("/tmp/async/a") == "text" and await files.read_bytes("/tmp/async/a") == b"text"
    assert [entry.name for entry in await files.list("/tmp/async")] == ["a"]
    assert await files.exists("/tmp/async/a")
    assert (await files.make_dir("/tmp/async/d")).type == "directory"
    assert (await files.make_dir("/tmp/async/d")).type == "directory"
    await files.upload_stream("/tmp/async/large", chunks())
    assert sum([len(chunk) async for chunk in files.download_stream("/tmp/async/large")]) == 1 << 20
    await files.remove("/tmp/async")
    await araises(wrenn.WrennNotFoundError, files.read("/tmp/async/a"))


@test
async def async_terminals():
    capsule = await ashared()

    async def text_until(term, wanted):
        text = b""
        async for event in term:
            if event.type == "output":
                text += event.data
            if wanted in text:
                return
            assert event.type not in ("exit", "error"), (event, text)
        raise AssertionError(text)

    async with capsule.pty() as term:
        assert (await anext(term)).type == "started" and term.tag and term.pid
        await term.resize(101, 41)
        await term.write(b"echo size-$(stty size)\n")
        await text_until(term, b"size-41 101")
        async with capsule.pty_connect(term.tag) as again:
            assert (await anext(again)).type == "started"
            await again.write(b"echo again-$((6*7))\n")
            await text_until(again, b"again-42")
            await again.kill()


@test
async def async_git():
    capsule = await ashared()
    git = capsule.git
    work, bare = "/tmp/agit/work", "/tmp/agit/bare"
    await git.configure_user("A", "a@example.org")
    await git.init(bare, bare=True, initial_branch="main")
    await git.init(work, initial_branch="main")
    await capsule.files.write(f"{work}/one", "1")
    assert (await git.status(cwd=work)).files
    await git.add(all=True, cwd=work)
    await git.commit("first", cwd=work)
    await git.remote_add("origin", bare, cwd=work)
    assert await git.remote_get("origin", cwd=work) == bare
    await git.push("origin", "main", set_upstream=True, cwd=work)
    await git.create_branch("topic", cwd=work)
    await git.checkout_branch("main", cwd=work)
    assert len(await git.branches(cwd=work)) == 2
    await git.delete_branch("topic", force=True, cwd=work)
    await git.clone(bare, "/tmp/agit/clone")
    await git.pull("origin", "main", cwd="/tmp/agit/clone")
    await git.set_config("core.note", "x", cwd=work)
    assert await git.get_config("core.note", cwd=work) == "x"
    await capsule.files.write(f"{work}/one", "2")
    await git.restore(["one"], cwd=work)
    await git.reset(mode="hard", cwd=work)
    await git.dangerously_authenticate("user", "password", host="git.example.org", cwd=work)


@test
async def async_client():
    client = AsyncWrennClient()
    assert client.http.base_url
    capsules = client.capsules
    made = await capsules.create()
    assert (await capsules.get(made.id)).id == made.id
    assert any(one.id == made.id for one in await capsules.list())
    await capsules.ping(made.id)
    assert (await capsules.stats("5m")).current.running_count >= 1
    assert (await capsules.usage()).points is not None
    assert (await capsules.metrics(made.id, "24h")).range == "24h"
    async with contextlib.aclosing(client.events.stream()) as events:
        assert (await anext(events)).event == "connected"
    await capsules.pause(made.id)
    await capsules.resume(made.id)
    await capsules.destroy(made.id)
    assert await client.snapshots.list()
    await araises(wrenn.WrennForbiddenError, client.snapshots.delete("minimal-ubuntu"))
    await araises(wrenn.WrennNotFoundError, client.snapshots.create(UNKNOWN))
    await client.aclose()


@test
async def async_snapshots():
    capsule = await ashared()
    async with AsyncWrennClient() as client:
        for made in (await capsule.create_snapshot("theirs"), await client.snapshots.create(capsule.capsule_id)):
            for _ in range(300):
                found = [one for one in await client.snapshots.list("snapshot") if one.name == made.name]
                if found and found[0].size_bytes:
                    break
                await asyncio.sleep(0.1)
            child = await AsyncCapsule.create(template=made.name, wait=True)
            assert (await child.commands.run("echo works")).stdout == "works\n"
            await araises(wrenn.WrennConflictError, client.snapshots.delete(made.name))
            await child.destroy(wait=True)
            await client.snapshots.delete(made.name)


@test
async def async_code_runner():
    async with await wrenn.code_runner.AsyncCapsule.create(wait=True) as capsule:
        assert (await capsule.run_code("y = 2\nprint('out')\ny")).text == "2"
        assert (await capsule.run_code("y * 21")).text == "42"
        assert (await capsule.run_code("nope")).error.name == "NameError"
        rich = await capsule.run_code(RICH)
        assert rich.results[0].html == "<b>x</b>" and rich.text == "'the last'"
        late = await capsule.run_code("import time; time.sleep(60)", timeout=1)
        assert late.timed_out
        await capsule.close()


@test
def without_a_key_and_with_a_wrong_one():
    key = os.environ.pop("WRENN_API_KEY")
    try:
        raises(ValueError, Capsule.list)
    finally:
        os.environ["WRENN_API_KEY"] = key
    raises(wrenn.WrennAuthenticationError, lambda: Capsule.list(api_key="e2b_" + "0" * 40))


def main():
    failures = published_sdk.run_all(watch)
    for capsule in kept:
        capsule.destroy()
    everything = sorted(set(METHODS.values()))
    sorted_sets = lambda found: {key: sorted(value) for key, value in sorted(found.items())}
    json.dump(
        {
            "version": importlib.metadata.version("wrenn"),
            "failures": failures,
            "methods": {name: sorted(reached.get(name, ())) for name in everything},
            "statuses": sorted_sets(answered),
        },
        sys.stdout,
    )


import importlib.metadata

main()
