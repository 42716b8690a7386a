"""The published E2B SDK for Python, as a program uses it that waits for each call."""

import datetime
import io
import os
import subprocess
import threading
import time

import e2b
import httpx
from e2b import (
    ALL_TRAFFIC, CommandExitException, FileNotFoundException, FilesystemEventType, FileType, InvalidArgumentException,
    NotFoundException, PtySize, Sandbox, SandboxException, SandboxNotFoundException, SandboxNotRunningException,
    SandboxQuery, SandboxState, Template, TimeoutException, Volume, Secret,
)

from harness import SERVICE, api_url, is_absent, repeated, routed, sandbox_url, until
from published_sdk import raises, test

UNKNOWN = "sb" + "0" * 20
# Of the user that sandboxes have unless told otherwise; E2B's contract names it.
HOME = "/home/user"
_shared = None


def shared():
    global _shared
    if _shared is None:
        _shared = Sandbox.create(timeout=3000)
    return _shared


@routed
def a_sandbox_from_its_creation_to_its_end():
    metadata = {"a b": "c/d", "ü&=": "%"}
    began = datetime.datetime.now(datetime.timezone.utc)
    with Sandbox.create(timeout=120, metadata=metadata, envs={"GREETING": "hello"}) as sandbox:
        info = sandbox.get_info()
        assert (info.sandbox_id, info.template_id, info.state) == (sandbox.sandbox_id, "base", SandboxState.RUNNING)
        assert (info.metadata, info.cpu_count, info.memory_mb, info.envd_version) == (metadata, 1, 512, "0.6.13")
        assert datetime.timedelta(seconds=115) < info.end_at - began < datetime.timedelta(seconds=200)
        assert Sandbox.get_info(sandbox.sandbox_id).sandbox_id == sandbox.sandbox_id
        assert sandbox.is_running()
        run = sandbox.commands.run
        assert run("echo $GREETING; whoami; pwd; sudo id -u").stdout == f"hello\nuser\n{HOME}\n0\n"
        assert run("echo $E2B_SANDBOX $E2B_SANDBOX_ID $E2B_TEMPLATE_ID").stdout == f"true {sandbox.sandbox_id} base\n"
        marks = run("cd /run/e2b; cat .E2B_SANDBOX .E2B_SANDBOX_ID .E2B_TEMPLATE_ID").stdout
        assert marks == f"true{sandbox.sandbox_id}base", marks
        assert run("python --version && node --version && git --version && curl --version && which ss tput npm gcc make gh")
        assert run("touch /usr/local/mine /usr/local/bin/mine /code/mine")
        assert sandbox.connection_config.api_url == api_url()
        assert sandbox.envd_api_url == sandbox.envd_direct_url == sandbox_url(sandbox)
        assert sandbox.get_host(80) == f"80-{sandbox.sandbox_id}.{sandbox.sandbox_domain}"
        assert sandbox.traffic_access_token is None
        assert sandbox.get_mcp_url().startswith("https://50005-")
        raises(FileNotFoundException, sandbox.get_mcp_token)
    assert not sandbox.is_running()
    raises(SandboxNotFoundException, sandbox.get_info)
    assert sandbox.kill() is False and Sandbox.kill(UNKNOWN) is False
    raises(TimeoutException, lambda: sandbox.commands.run("true"))


@test
def a_sandbox_is_paused_and_resumed_with_its_processes():
    sandbox = Sandbox.create(timeout=600)
    sleeper = sandbox.commands.run("sleep 1000", background=True)
    boot = sandbox.commands.run("cat /proc/sys/kernel/random/boot_id").stdout
    assert sandbox.pause() is True
    assert sandbox.pause() is False and sandbox.beta_pause() is False
    assert sandbox.get_info().state == SandboxState.PAUSED
    assert not sandbox.is_running()
    raises(SandboxException, lambda: sandbox.set_timeout(100))
    sandbox.connect(timeout=600)
    assert sandbox.commands.run("cat /proc/sys/kernel/random/boot_id").stdout == boot
    assert any(one.pid == sleeper.pid for one in sandbox.commands.list())
    assert Sandbox.pause(sandbox.sandbox_id) is True
    assert Sandbox.beta_pause(sandbox.sandbox_id) is False
    same = Sandbox.connect(sandbox.sandbox_id, timeout=600)
    assert same.is_running() and sandbox.is_running(), "the token is the same"
    assert Sandbox.kill(sandbox.sandbox_id) is True
    raises(NotFoundException, lambda: Sandbox.connect(UNKNOWN))
    raises(NotFoundException, lambda: Sandbox.pause(UNKNOWN))


@test
def the_time_of_a_sandbox_is_moved_and_ends_it():
    sandbox = Sandbox.create(timeout=600)
    sandbox.set_timeout(1200)
    left = sandbox.get_info().end_at - datetime.datetime.now(datetime.timezone.utc)
    assert datetime.timedelta(seconds=1100) < left < datetime.timedelta(seconds=1210)
    # For one that runs the end is only ever moved to a later time.
    Sandbox.connect(sandbox.sandbox_id, timeout=60)
    assert sandbox.get_info().end_at - datetime.datetime.now(datetime.timezone.utc) > datetime.timedelta(seconds=1000)
    Sandbox.set_timeout(sandbox.sandbox_id, 0)
    until("its end", lambda: not sandbox.is_running())
    raises(SandboxNotFoundException, lambda: Sandbox.set_timeout(sandbox.sandbox_id, 100))
    raises(SandboxException, lambda: Sandbox.create(timeout=10**7))


@test
def a_sandbox_is_paused_without_its_memory():
    sandbox = Sandbox.create(timeout=600, lifecycle={"on_timeout": {"action": "pause", "mode": "filesystem"}})
    boot = lambda: sandbox.commands.run("cat /proc/sys/kernel/random/boot_id").stdout
    first = boot()
    sleeper = sandbox.commands.run("sleep 1000", background=True)
    sandbox.files.write("/home/user/kept", "1")
    sandbox.files.write("/dev/shm/lost", "1")
    assert sandbox.pause(mode="filesystem") is True and sandbox.pause(mode="filesystem") is False
    assert sandbox.get_info().state == SandboxState.PAUSED
    assert not sandbox.is_running(), "no call wakes it"
    assert "paused and cannot be forked" in str(raises(SandboxException, sandbox.fork))
    sandbox.connect(timeout=600)
    second = boot()
    assert second != first and sandbox.files.read("/home/user/kept") == "1"
    assert not sandbox.files.exists("/dev/shm/lost")
    assert all(one.pid != sleeper.pid for one in sandbox.commands.list())
    # What was paused with its memory may be booted from its disk too; what runs goes on.
    sandbox.files.write("/home/user/kept", "2")
    sandbox.commands.run("sync")
    assert sandbox.pause(keep_memory=True) is True
    Sandbox.connect(sandbox.sandbox_id, timeout=600, on_resume="reboot")
    third = boot()
    assert third != second and sandbox.files.read("/home/user/kept") == "2"
    sandbox.connect(timeout=600, on_resume="reboot")
    assert boot() == third
    # The end of its time does what it was created with.
    sandbox.set_timeout(0)
    until("its pause", lambda: sandbox.get_info().state == SandboxState.PAUSED)
    sandbox.connect(timeout=600)
    assert boot() != third
    sandbox.kill()


@test
def a_sandbox_is_paused_when_its_time_is_over_and_woken_by_a_call():
    lifecycle = {"on_timeout": "pause", "auto_resume": True}
    sandbox = Sandbox.create(timeout=600, lifecycle=lifecycle)
    sandbox.files.write("kept", "1")
    assert sandbox.get_info().lifecycle["auto_resume"] is True
    sandbox.set_timeout(0)
    until("its pause", lambda: sandbox.get_info().state == SandboxState.PAUSED)
    assert sandbox.files.read("kept") == "1"
    info = sandbox.get_info()
    assert info.state == SandboxState.RUNNING
    left = info.end_at - datetime.datetime.now(datetime.timezone.utc)
    assert datetime.timedelta(seconds=250) < left <= datetime.timedelta(seconds=300)
    sandbox.kill()


@test
def sandboxes_are_listed_by_what_they_are():
    tag = {"purpose": "a list / of some"}
    made = [Sandbox.create(timeout=600, metadata={**tag, "n": str(n)}) for n in range(3)]
    ids = [one.sandbox_id for one in made]
    query = SandboxQuery(metadata=tag)
    pages = Sandbox.list(query, limit=2)
    assert pages.has_next
    first = pages.next_items()
    assert pages.has_next and pages.next_token
    assert [one.sandbox_id for one in first + pages.next_items()] == ids[::-1] and not pages.has_next
    oldest = Sandbox.list(query, order="asc").next_items()
    assert [one.sandbox_id for one in oldest] == ids
    made[0].pause()
    state = lambda *states: [one.sandbox_id for one in Sandbox.list(SandboxQuery(metadata=tag, state=list(states))).next_items()]
    assert state(SandboxState.PAUSED) == ids[:1]
    assert state(SandboxState.RUNNING) == ids[:0:-1]
    assert len(state(SandboxState.RUNNING, SandboxState.PAUSED)) == 3
    since = SandboxQuery(metadata=tag, started_after=oldest[1].started_at)
    assert [one.sandbox_id for one in Sandbox.list(since).next_items()] == ids[:0:-1]
    assert Sandbox.list(SandboxQuery(metadata=tag, template="minimal")).next_items() == []
    assert len(Sandbox.list(SandboxQuery(metadata=tag, template="base")).next_items()) == 3
    for one in made:
        one.kill()
    assert Sandbox.list(query).next_items() == []


@routed
def commands_run_in_front_and_behind():
    commands = shared().commands
    heard = []
    result = commands.run("echo out; echo err >&2", on_stdout=heard.append, on_stderr=heard.append)
    assert (result.stdout, result.stderr, result.exit_code, result.error) == ("out\n", "err\n", 0, None)
    assert sorted(heard) == ["err\n", "out\n"]
    error = raises(CommandExitException, lambda: commands.run("echo no >&2; exit 3"))
    assert (error.exit_code, error.stderr) == (3, "no\n")
    assert commands.run("echo $A; pwd; whoami", envs={"A": "b c"}, cwd="/tmp", user="root").stdout == "b c\n/tmp\nroot\n"
    raises(TimeoutException, lambda: commands.run("sleep 60", timeout=1))
    raises(InvalidArgumentException, lambda: commands.run("true", cwd="/no/such"))
    raises(e2b.AuthenticationException, lambda: commands.run("true", user="nobody-here"))
    assert raises(CommandExitException, lambda: commands.run("no-such-program")).exit_code == 127
    text = "ü€" * 50_000
    assert commands.run(f"python3 -c \"print('ü€' * 50000)\"").stdout == text + "\n"

    handle = commands.run("read line; echo got $line; sleep 1000", background=True, stdin=True)
    assert any(one.pid == handle.pid and one.cmd == "/bin/bash" for one in commands.list())
    commands.send_stdin(handle.pid, "one\n")
    assert next(out for out, _, _ in handle if out) == "got one\n"
    handle.disconnect()
    assert any(one.pid == handle.pid for one in commands.list()), "it goes on without a listener"
    again = commands.connect(handle.pid)
    assert again.kill() is True
    raises(CommandExitException, again.wait)
    assert commands.kill(handle.pid) is False
    raises(NotFoundException, lambda: commands.connect(99_999))


@test
def input_is_sent_and_ended():
    commands = shared().commands
    handle = commands.run("cat", background=True, stdin=True)
    handle.send_stdin("a")
    commands.stream_input(handle.pid, ["b", b"c"])
    handle.close_stdin()
    assert handle.wait().stdout == "abc"
    handle = commands.run("cat", background=True, stdin=True)
    commands.send_stdin(handle.pid, b"x")
    commands.close_stdin(handle.pid)
    assert handle.wait().stdout == "x"
    assert commands.kill(commands.run("sleep 1000", background=True).pid) is True


@routed
def terminals():
    terminal = shared().pty
    heard = []
    handle = terminal.create(PtySize(rows=20, cols=70), cwd="/tmp", envs={"A": "b"})
    reader = threading.Thread(target=lambda: heard.extend(data for _, _, data in handle if data), daemon=True)
    reader.start()
    said = lambda text: until(text, lambda: text in b"".join(heard).decode(errors="replace"))
    terminal.send_stdin(handle.pid, b"stty size; echo $A-$PWD\n")
    said("20 70")
    said("b-/tmp")
    terminal.resize(handle.pid, PtySize(rows=30, cols=90))
    terminal.stream_input(handle.pid, [b"stty ", "size\n"])
    said("30 90")
    other = terminal.connect(handle.pid)
    assert other.pid == handle.pid
    assert terminal.kill(handle.pid) is True
    raises(CommandExitException, other.wait)
    reader.join(30)
    assert terminal.kill(handle.pid) is False


@routed
def files_are_written_read_listed_and_removed():
    files = shared().files
    assert files.make_dir("tree/deep") is True and files.make_dir("tree/deep") is False
    written = files.write("tree/a.txt", "text ü")
    assert (written.name, written.type, written.path) == ("a.txt", FileType.FILE, f"{HOME}/tree/a.txt")
    assert files.read("tree/a.txt") == "text ü"
    assert files.read("tree/a.txt", format="bytes") == bytearray("text ü".encode())
    assert b"".join(files.read("tree/a.txt", format="stream")) == "text ü".encode()
    assert files.read("tree/a.txt", gzip=True) == "text ü"
    files.write("tree/b.bin", os.urandom(1 << 20))
    assert files.get_info("tree/b.bin").size == 1 << 20
    files.write_files([{"path": "tree/c", "data": io.BytesIO(b"c")}, {"path": "tree/deep/d", "data": "d"}])
    assert [one.path for one in files.list("tree", depth=2)] == [
        f"{HOME}/tree/{name}" for name in ("a.txt", "b.bin", "c", "deep", "deep/d")]
    info = files.get_info("tree/a.txt")
    assert (info.owner, info.group, info.permissions, info.mode) == ("user", "user", "-rw-r--r--", 0o644)
    renamed = files.rename("tree/a.txt", "tree/new/e.txt")
    assert renamed.path == f"{HOME}/tree/new/e.txt"
    assert files.exists("tree/new/e.txt") and not files.exists("tree/a.txt")
    files.write("tree/m", "x", metadata={"Key": "value"})
    assert files.get_info("tree/m").metadata == {"key": "value"}
    files.write("tree/z", "packed" * 1000, gzip=True)
    assert files.read("tree/z") == "packed" * 1000
    files.write("tree/octets", b"\0\1", use_octet_stream=True)
    assert files.read("tree/octets", format="bytes") == bytearray(b"\0\1")
    files.remove("tree")
    files.remove("tree")
    raises(FileNotFoundException, lambda: files.read("tree/m"))
    raises(NotFoundException, lambda: files.list("tree"))
    raises(SandboxException, lambda: files.read("/etc/shadow"))
    assert files.read("/etc/shadow", user="root")
    assert files.read("/proc/version").startswith("Linux")


@routed
def changes_of_files_are_watched():
    files = shared().files
    files.make_dir("watched/below")
    handle = files.watch_dir("watched", recursive=True, include_entry=True)
    files.write("watched/f", "x")
    told = handle.get_new_events()
    kinds = FilesystemEventType
    assert [(one.name, one.type) for one in told] == [
        ("f", kinds.CREATE), ("f", kinds.CHMOD), ("f", kinds.WRITE)], told
    assert told[0].entry.path == f"{HOME}/watched/f", told
    files.rename("watched/f", "watched/below/g")
    files.remove("watched/below/g")
    events = handle.get_new_events()
    assert [(one.name, one.type) for one in events] == [
        ("f", kinds.RENAME), ("below/g", kinds.CREATE), ("below/g", kinds.REMOVE)], events
    files.make_dir("watched/new")
    files.write("watched/new/h", "x")
    events = [(one.name, one.type) for one in handle.get_new_events()]
    assert ("new", kinds.CREATE) in events and ("new/h", kinds.CREATE) in events, events
    handle.stop()
    # More than a kernel lets one user have by itself.
    many = [files.watch_dir("watched") for _ in range(140)]
    files.write("watched/last", "x")
    assert all(handle.get_new_events()[0].name == "last" for handle in many)
    for handle in many:
        handle.stop()
    raises(NotFoundException, lambda: files.watch_dir("no/such"))
    raises(InvalidArgumentException, lambda: files.watch_dir("/etc/passwd"))


@routed
def pieces_become_one_file():
    sandbox = shared()
    for name in ("one", "two"):
        sandbox.files.write(f"pieces/{name}", name)
    headers = {"E2b-Sandbox-Id": sandbox.sandbox_id, "E2b-Sandbox-Port": "49983",
               "X-Access-Token": sandbox.connection_config.sandbox_headers["X-Access-Token"]}
    wish = {"source_paths": ["pieces/two", "pieces/one"], "destination": "pieces/whole"}
    compose = lambda **more: httpx.post(f"{sandbox.envd_api_url}/files/compose", json=wish, headers={**headers, **more})
    assert compose(**{"X-Access-Token": "other"}).status_code == 401
    answer = compose()
    assert answer.json() == {"name": "whole", "type": "file", "path": f"{HOME}/pieces/whole"}, answer.text
    assert [one.name for one in sandbox.files.list("pieces")] == ["whole"]
    assert sandbox.files.read("pieces/whole") == "twoone"


@routed
def signed_addresses_are_good_by_themselves():
    sandbox = shared()
    url = sandbox.upload_url("signed.txt")
    answer = httpx.post(url, files={"file": ("signed.txt", b"by address")})
    assert answer.status_code == 200, answer.text
    url = sandbox.download_url("signed.txt", use_signature_expiration=600)
    assert httpx.get(url).text == "by address"
    assert httpx.get(url, headers={"Range": "bytes=3-9"}).text == "address"
    answer = httpx.get(url.replace("signed.txt", "other.txt"))
    assert (answer.status_code, answer.json()["message"]) == (401, "invalid signature")
    old = sandbox.download_url("signed.txt", use_signature_expiration=-5)
    assert httpx.get(old).text == '{"code":401,"message":"signature is already expired"}'


@test
def snapshots_are_made_listed_used_and_deleted():
    sandbox = Sandbox.create(timeout=600, metadata={"of": "snapshots"})
    sandbox.files.write("state", "kept")
    named = sandbox.create_snapshot(name="my-snapshot")
    assert (named.snapshot_id, named.names) == ("sandpiper/my-snapshot:default", ["sandpiper/my-snapshot"])
    unnamed = Sandbox.create_snapshot(sandbox.sandbox_id)
    assert unnamed.names == [] and unnamed.snapshot_id.endswith(":default")
    listed = sandbox.list_snapshots(limit=1)
    found = listed.next_items()
    assert listed.has_next and listed.next_token
    found += listed.next_items()
    assert {one.snapshot_id for one in found} == {named.snapshot_id, unnamed.snapshot_id}
    by_name = lambda name: [one.snapshot_id for one in Sandbox.list_snapshots(name=name).next_items()]
    assert by_name("my-snapshot") == by_name("my-snapshot:default") == [named.snapshot_id]
    assert Template.exists("my-snapshot")
    for one in (named, unnamed):
        with Sandbox.create(one.snapshot_id, timeout=600, envs={"NEW": "1"}) as copy:
            assert copy.files.read("state") == "kept"
            assert copy.commands.run("echo $NEW $E2B_SANDBOX_ID").stdout == f"1 {copy.sandbox_id}\n"
        assert Sandbox.delete_snapshot(one.snapshot_id) is True
        assert Sandbox.delete_snapshot(one.snapshot_id) is False
    raises(SandboxNotFoundException, lambda: Sandbox.create_snapshot(UNKNOWN))
    # One of the disk alone: what is made of it boots.
    boot = lambda one: one.commands.run("cat /proc/sys/kernel/random/boot_id").stdout
    first = boot(sandbox)
    sandbox.files.write("/dev/shm/lost", "1")
    for before in ("running", "paused"):
        if before == "paused":
            sandbox.commands.run("sync")
            sandbox.pause()
        disk = sandbox.create_snapshot(mode="filesystem")
        booted = Sandbox.create(disk.snapshot_id, timeout=600)
        assert booted.files.read("state") == "kept" and not booted.files.exists("/dev/shm/lost"), before
        assert boot(booted) != first
        booted.kill()
        assert Sandbox.delete_snapshot(disk.snapshot_id) is True
    sandbox.connect(timeout=600)
    sandbox.kill()


@test
def a_fork_goes_on_from_where_its_parent_is():
    sandbox = Sandbox.create(timeout=600)
    sandbox.files.write("state", "before")
    children = sandbox.fork(count=2, timeout=600)
    sandbox.files.write("state", "after")
    for child in children:
        assert isinstance(child, Sandbox), child
        assert child.files.read("state") == "before"
        assert child.sandbox_id != sandbox.sandbox_id
        child.kill()
    only, = Sandbox.fork(sandbox.sandbox_id, timeout=600)
    assert only.files.read("state") == "after"
    only.kill()
    sandbox.pause()
    assert "paused and cannot be forked" in str(raises(SandboxException, sandbox.fork))
    sandbox.kill()
    raises(SandboxNotFoundException, sandbox.fork)


@test
def what_a_sandbox_uses_is_measured():
    sandbox = shared()
    metrics = until("its first metrics", sandbox.get_metrics)
    last = metrics[-1]
    assert last.cpu_count == 1 and last.mem_total == 512 << 20 and 0 < last.mem_used < last.mem_total
    now = datetime.datetime.now(datetime.timezone.utc)
    assert Sandbox.get_metrics(sandbox.sandbox_id, start=now - datetime.timedelta(minutes=5), end=now)
    raises(SandboxNotFoundException, lambda: Sandbox.get_metrics(UNKNOWN))


@test
def a_service_that_speaks_tls_is_reached_at_a_port_that_says_so():
    made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
            "-subj", "/CN=guest", "-days", "2", "-keyout", "-", "-out", "-"]
    certificate = subprocess.run(made, check=True, capture_output=True, text=True).stdout
    with Sandbox.create(timeout=600, network={"https_ports": [8443]}) as sandbox:
        assert sandbox.get_info().network["https_ports"] == [8443]
        sandbox.files.write("own.pem", certificate)
        serve = ("import http.server, ssl; server = http.server.ThreadingHTTPServer(('', 8443), "
                 "http.server.SimpleHTTPRequestHandler); context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER); "
                 "context.load_cert_chain('own.pem'); server.socket = context.wrap_socket(server.socket, "
                 "server_side=True); server.serve_forever()")
        sandbox.commands.run(f'python3 -c "{serve}"', background=True)
        headers = {"E2b-Sandbox-Id": sandbox.sandbox_id, "E2b-Sandbox-Port": "8443"}
        get = lambda: httpx.get(os.environ["E2B_SANDBOX_URL"] + "/own.pem", headers=headers)
        until("the service", lambda: get().status_code == 200)
        assert get().text == certificate


@test
def what_a_sandbox_may_reach_is_said_at_its_creation_and_later():
    sandbox = Sandbox.create(timeout=600, allow_internet_access=False, network={"allow_public_traffic": False})
    assert sandbox.get_info().allow_internet_access is False
    sandbox.update_network({"allow_out": ["example.com", "1.1.1.1"], "deny_out": [ALL_TRAFFIC]})
    network = sandbox.get_info().network
    assert (network["allow_out"], network["deny_out"]) == (["example.com", "1.1.1.1"], ["0.0.0.0/0"]), network
    sandbox.update_network({"dns_servers": ["1.1.1.1", "8.8.4.4"]})
    assert sandbox.get_info().network["dns_servers"] == ["1.1.1.1", "8.8.4.4"]
    raises(SandboxException, lambda: sandbox.update_network({"dns_servers": ["dns.example.com"]}))
    proxy = {"address": "proxy.example.com:1080", "username": "u", "password": "open sesame"}
    sandbox.update_network({"egress_proxy": {**proxy, "tls": {"server_name": "other.example.com"}}})
    told = sandbox.get_info().network["egress_proxy"]
    assert told == {"address": proxy["address"], "username": "u", "tls": {"server_name": "other.example.com"}}, told
    raises(SandboxException, lambda: sandbox.update_network({"egress_proxy": {"address": "10.0.0.1:1080"}}))
    rules = {"api.example.com": [{"transform": {"headers": {"Authorization": "Bearer open sesame"}}}]}
    sandbox.update_network({"allow_out": lambda it: list(it.rules), "deny_out": [ALL_TRAFFIC], "rules": rules})
    network = sandbox.get_info().network
    shown = {"api.example.com": [{"transform": {"headers": {"authorization": "***"}}}]}
    assert (network["allow_out"], network["rules"]) == (["api.example.com"], shown), network
    names = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS")
    believed = sandbox.commands.run("cat " + " ".join(f"${name}" for name in names)).stdout
    assert believed.count("BEGIN CERTIFICATE") > 2, believed
    secret = {"api.example.com": [{"transform": {"headers": {"Authorization": "${e2b.secrets.key}"}}}]}
    assert "does not offer" in str(raises(SandboxException, lambda: sandbox.update_network({"rules": secret})))
    Sandbox.update_network(sandbox.sandbox_id, {})
    network = sandbox.get_info().network
    assert network["allow_out"] == [] and not {"dns_servers", "egress_proxy", "rules"} & set(network), network
    error = raises(SandboxException, lambda: Sandbox.create(network={"allow_out": ["example.com"]}))
    assert "ALL_TRAFFIC" in str(error)
    raises(SandboxNotFoundException, lambda: Sandbox.update_network(UNKNOWN, {}))

    sandbox.commands.run("python3 -m http.server 8000", background=True)
    headers = {"E2b-Sandbox-Id": sandbox.sandbox_id, "E2b-Sandbox-Port": "8000"}
    get = lambda **more: httpx.get(os.environ["E2B_SANDBOX_URL"], headers={**headers, **more})
    token = {"e2b-traffic-access-token": sandbox.traffic_access_token}
    until("the service", lambda: get(**token).status_code == 200)
    assert get().status_code == 403 and "is missing" in get().json()["message"]
    assert Sandbox.connect(sandbox.sandbox_id).traffic_access_token == sandbox.traffic_access_token
    sandbox.kill()
    assert get(**token).status_code == 502


@routed
def services_have_names_of_their_own():
    sandbox = Sandbox.create(timeout=600, lifecycle={"on_timeout": "pause", "auto_resume": True})
    sandbox.files.write("service.py", SERVICE)
    sandbox.commands.run("python3 service.py", background=True)
    host = sandbox.get_host(8000)
    get = lambda: httpx.get(f"https://{host}/a%20b?c", headers={"X-API-Key": os.environ["E2B_API_KEY"]})
    seen = until("the service", lambda: get() if get().status_code == 200 else None).json()
    assert seen == {"path": "/a%20b?c", "host": host, "x-forwarded-proto": "https", "x-api-key": None}, seen
    assert repeated(host, "a word") == "a word"
    closed = httpx.get(f"https://{sandbox.get_host(9)}")
    assert (closed.status_code, closed.json()["message"]) == (502, "The sandbox is running but port is not open")
    sandbox.pause()
    assert httpx.get(f"https://{host}", timeout=60).status_code == 200, "traffic wakes it"
    sandbox.kill()
    assert httpx.get(f"https://{host}").json()["message"] == "The sandbox was not found"


@test
def the_same_key_makes_one_sandbox():
    make = lambda: Sandbox.create(timeout=600, idempotency_key="the-same-key", metadata={"k": "v"})
    one, same = make(), make()
    assert one.sandbox_id == same.sandbox_id and same.is_running()
    one.kill()


@test
def repositories():
    sandbox = shared()
    git, run = sandbox.git, sandbox.commands.run
    git.configure_user("A U Thor", "author@example.com")
    git.init(f"{HOME}/origin", bare=True, initial_branch="main")
    git.clone(f"{HOME}/origin", path=f"{HOME}/repo")
    repo = f"{HOME}/repo"
    sandbox.files.write(f"{repo}/f", "1")
    assert git.status(repo).file_status[0].name == "f"
    git.add(repo)
    git.commit(repo, "first")
    git.push(repo, remote="origin", branch="main")
    git.create_branch(repo, "other")
    git.checkout_branch(repo, "main")
    assert sorted(git.branches(repo).branches) == ["main", "other"]
    git.delete_branch(repo, "other")
    sandbox.files.write(f"{repo}/f", "2")
    git.restore(repo, ["f"])
    assert sandbox.files.read(f"{repo}/f") == "1"
    sandbox.files.write(f"{repo}/f", "3")
    git.add(repo)
    git.reset(repo)
    git.remote_add(repo, "second", f"{HOME}/origin")
    assert git.remote_get(repo, "second") == f"{HOME}/origin"
    git.set_config("pull.rebase", "false")
    assert git.get_config("pull.rebase") == "false"
    run("git checkout -q f", cwd=repo)
    git.pull(repo, remote="origin", branch="main")
    git.dangerously_authenticate("name", "secret")
    assert "secret" in sandbox.files.read(".git-credentials")


@routed
def a_kill_ends_what_is_under_way():
    sandbox = Sandbox.create(timeout=600)
    handle = sandbox.commands.run("sleep 1000", background=True)
    failed = []

    def wait():
        try:
            handle.wait()
        except Exception as error:
            failed.append(error)

    waiting = threading.Thread(target=wait)
    waiting.start()
    began = time.monotonic()
    sandbox.kill()
    waiting.join(20)
    assert not waiting.is_alive() and time.monotonic() - began < 20
    assert isinstance(failed[0], (SandboxNotRunningException, TimeoutException, SandboxException)), failed


@test
def templates_are_there_or_not_and_cannot_be_built_here():
    assert Template.exists("base") and Template.alias_exists("base")
    assert not Template.exists("no-such-template")
    assert [one.tag for one in Template.get_tags("base")] == ["default"]
    assert "404" in str(raises(SandboxException, lambda: Sandbox.create("no-such-template")))
    template = Template().from_image("debian:12").run_cmd("true")
    is_absent("Template.build", lambda: Template.build(template, "mine"))
    is_absent("Template.build_in_background", lambda: Template.build_in_background(template, "mine"))
    build = e2b.BuildInfo(alias="mine", name="mine", tags=[], template_id="mine", build_id="1")
    is_absent("Template.get_build_status", lambda: Template.get_build_status(build))


@test
def templates_and_snapshots_have_tags():
    tags = lambda name: {one.tag: one.build_id for one in Template.get_tags(name)}
    given = Template.assign_tags("base:default", ["v1", "Stable"])
    assert given.tags == ["v1", "stable"]
    assert tags("base") == dict.fromkeys(["default", "v1", "stable"], given.build_id)
    assert Template.exists("base:v1") and not Template.exists("base:v2")
    Template.remove_tags("base", ["v1", "stable"])
    assert tags("base") == {"default": given.build_id}
    raises(SandboxException, lambda: Template.remove_tags("base", "default"))
    raises(SandboxException, lambda: Template.assign_tags("no-such-template", "v1"))

    with Sandbox.create(timeout=600) as sandbox:
        sandbox.files.write("state", "first")
        first = sandbox.create_snapshot(name="tagged")
        sandbox.files.write("state", "second")
        second = sandbox.create_snapshot(name="tagged:v2")
    assert (second.snapshot_id, second.names) == ("sandpiper/tagged:v2", ["sandpiper/tagged"])
    builds = tags("tagged")
    assert builds["default"] != builds["v2"] and len(builds) == 2
    for name, state in (("tagged", "first"), ("tagged:v2", "second")):
        with Sandbox.create(name, timeout=600) as copy:
            assert copy.files.read("state") == state
    assert Template.assign_tags("tagged:v2", "newest").build_id == builds["v2"]
    listed = [one.snapshot_id for one in Sandbox.list_snapshots(name="tagged").next_items()]
    assert listed == [second.snapshot_id, first.snapshot_id]
    assert Sandbox.delete_snapshot("tagged") is True, "with all its tags"
    assert Sandbox.list_snapshots(name="tagged").next_items() == []


@test
def volumes_and_secrets_are_not_offered():
    is_absent("Volume.create", lambda: Volume.create("v"))
    is_absent("Volume.connect", lambda: Volume.connect("v"))
    is_absent("Volume.list", Volume.list)
    is_absent("Volume.get_info", lambda: Volume.get_info("v"))
    is_absent("Volume.destroy", lambda: Volume.destroy("v"))
    is_absent("Secret.create", lambda: Secret.create("s", "value"))
    is_absent("Secret.update", lambda: Secret.update("s", "value"))
    is_absent("Secret.get_info", lambda: Secret.get_info("s"))
    is_absent("Secret.exists", lambda: Secret.exists("s"))
    is_absent("Secret.destroy", lambda: Secret.destroy("s"))
