"""What the tests of the published E2B SDK share: which of its methods a test reached is seen by the interpreter's own
profiler, so nothing of the SDK is changed. `run` writes what it found to standard output, as JSON."""

import asyncio
import base64
import importlib.metadata
import inspect
import json
import os
import pathlib
import socket
import ssl
import sys
import threading
import time

import e2b
import published_sdk
from e2b.sandbox.utils import class_method_variant
from e2b.sandbox_async import git as async_git
from e2b.sandbox_async.commands import command as async_command, command_handle as async_handle, pty as async_pty
from e2b.sandbox_async.filesystem import filesystem as async_files
from e2b.sandbox_sync import git
from e2b.sandbox_sync.commands import command, command_handle, pty
from e2b.sandbox_sync.filesystem import filesystem, watch_handle
from published_sdk import araises, code_of, raises, test

SERVICE = (pathlib.Path(__file__).parent / "service.py").read_text()

CLASSES = {
    "Sandbox": e2b.Sandbox,
    "Commands": command.Commands,
    "CommandHandle": command_handle.CommandHandle,
    "Pty": pty.Pty,
    "Filesystem": filesystem.Filesystem,
    "WatchHandle": watch_handle.WatchHandle,
    "Git": git.Git,
    "SandboxPaginator": e2b.SandboxPaginator,
    "SnapshotPaginator": e2b.SnapshotPaginator,
    "AsyncSandbox": e2b.AsyncSandbox,
    "AsyncCommands": async_command.Commands,
    "AsyncCommandHandle": async_handle.AsyncCommandHandle,
    "AsyncCommandInputHandle": e2b.AsyncCommandInputHandle,
    "AsyncPty": async_pty.Pty,
    "AsyncFilesystem": async_files.Filesystem,
    "AsyncWatchHandle": e2b.AsyncWatchHandle,
    "AsyncGit": async_git.Git,
    "AsyncSandboxPaginator": e2b.AsyncSandboxPaginator,
    "AsyncSnapshotPaginator": e2b.AsyncSnapshotPaginator,
    "Template": e2b.Template,
    "AsyncTemplate": e2b.AsyncTemplate,
    "Volume": e2b.Volume,
    "AsyncVolume": e2b.AsyncVolume,
    "Secret": e2b.Secret,
    "AsyncSecret": e2b.AsyncSecret,
}

# A template's description is made without any server; these methods ask one.
TEMPLATE = {"build", "build_in_background", "get_build_status", "exists", "alias_exists", "assign_tags", "remove_tags",
            "get_tags"}

# What needs a volume or a secret to begin with, and there is none: its creation is answered 501.
NEEDS_ONE = {
    "Volume": "Volume.create", "AsyncVolume": "AsyncVolume.create",
    "Secret": "Secret.create", "AsyncSecret": "AsyncSecret.create",
}


def methods(owner, cls):
    """Every public method of a class that the SDK itself wrote, as name and code object."""
    found = {}
    for base in reversed(cls.__mro__):
        if not base.__module__.startswith("e2b"):
            continue
        for name, value in vars(base).items():
            if name.startswith("_") or (owner.endswith("Template") and name not in TEMPLATE):
                continue
            if isinstance(value, class_method_variant):
                found[f"{name} (instance)"] = code_of(value.method)
                found[f"{name} (class)"] = code_of(inspect.getattr_static(cls, value.class_method_name))
            elif code_of(value) is not None:
                found[name] = code_of(value)
    return found


METHODS = {}
for owner, cls in CLASSES.items():
    for name, code in methods(owner, cls).items():
        METHODS.setdefault(code, set()).add(f"{owner}.{name}")

reached, absent = {}, {}


def watch(frame, event, _):
    if event == "call" and published_sdk.current is not None and frame.f_code in METHODS:
        # What is inherited is reached through the class that the object has.
        names = METHODS[frame.f_code]
        own = frame.f_locals.get("self", frame.f_locals.get("cls"))
        kind = own if inspect.isclass(own) else type(own)
        exact = {name for name in names if CLASSES[name.split(".")[0]] is kind}
        for name in exact or names:
            reached.setdefault(name, set()).add(published_sdk.current)


def is_absent(method, call):
    """The server says, to a person, that it does not offer what a method needs."""
    error = raises(Exception, call)
    note_absent(method, error)


async def ais_absent(method, awaitable):
    note_absent(method, await araises(Exception, awaitable))


def note_absent(method, error):
    assert "501" in str(error) and "does not offer" in str(error), (method, repr(error))
    absent[method] = str(error).split("does not offer ", 1)[1].strip().split(";")[0]


# Tests of what depends on how the API and the sandboxes are addressed: they run in both ways.
ROUTED = []


def routed(function):
    ROUTED.append(function.__name__)
    return test(function)


def api_url():
    return os.environ.get("E2B_API_URL") or f"https://api.{os.environ['E2B_DOMAIN']}"


def sandbox_url(sandbox):
    return os.environ.get("E2B_SANDBOX_URL") or f"https://49983-{sandbox.sandbox_id}.{os.environ['E2B_DOMAIN']}"


def repeated(host, text):
    """What a WebSocket at a host repeats of a short text."""
    name, port = host.rsplit(":", 1)
    key = base64.b64encode(os.urandom(16)).decode()
    with ssl.create_default_context().wrap_socket(socket.create_connection((name, int(port))), server_hostname=name) as tls:
        tls.sendall(f"GET /ws HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                    f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode())
        heard = tls.makefile("rb")
        assert b" 101 " in heard.readline()
        while heard.readline().strip():
            pass
        data = text.encode()
        tls.sendall(bytes([0x81, 0x80 | len(data), 0, 0, 0, 0]) + data)
        return heard.read(2 + len(data))[2:].decode()


def until(what, condition, seconds=60):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.1)
    raise AssertionError(f"{what}: not in {seconds} s")


async def auntil(what, condition, seconds=60):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = await condition()
        if value:
            return value
        await asyncio.sleep(0.1)
    raise AssertionError(f"{what}: not in {seconds} s")


def run():
    if sys.argv[1:] == ["--routed"]:
        sys.argv[1:] = ROUTED
    threading.setprofile(watch)
    failures = published_sdk.run_all(watch)
    threading.setprofile(None)
    found = {}
    for name in sorted(set().union(*METHODS.values())):
        owner = name.split(".")[0]
        if name in absent:
            found[name] = f"501: {absent[name]}"
        elif name not in reached and NEEDS_ONE.get(owner) in absent:
            found[name] = f"501: {absent[NEEDS_ONE[owner]]}"
        else:
            found[name] = min(reached.get(name, {""}))
    json.dump({"version": importlib.metadata.version("e2b"), "failures": failures, "methods": found, "routed": ROUTED}, sys.stdout)
