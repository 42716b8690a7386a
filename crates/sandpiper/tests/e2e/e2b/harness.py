"""What the tests of the published E2B SDK share: which of its methods a test reached is seen by the interpreter's own
profiler, so nothing of the SDK is changed. `run` writes what it found to standard output, as JSON."""

import asyncio
import importlib.metadata
import inspect
import json
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
from published_sdk import araises, code_of, raises

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
    json.dump({"version": importlib.metadata.version("e2b"), "failures": failures, "methods": found}, sys.stdout)
