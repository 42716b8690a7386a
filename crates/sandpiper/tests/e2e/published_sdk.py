"""What the tests of published SDKs share: how tests are named, run one after another and told apart, and which code belongs to
a method. Knows no SDK."""

import asyncio
import gc
import inspect
import sys
import time
import traceback

tests = []
# The name of the test that runs.
current = None


def test(function):
    tests.append(function)
    return function


def raises(kind, call):
    try:
        call()
    except kind as error:
        return error
    raise AssertionError(f"{kind.__name__} was not raised")


async def araises(kind, awaitable):
    try:
        await awaitable
    except kind as error:
        return error
    raise AssertionError(f"{kind.__name__} was not raised")


def code_of(value):
    if isinstance(value, (classmethod, staticmethod)):
        value = value.__func__
    if isinstance(value, property):
        value = value.fget
    value = inspect.unwrap(value) if callable(value) else None
    return getattr(value, "__code__", None)


def run_all(watch):
    """Runs the tests, or those that the arguments name, with `watch` as the interpreter's profiler. Returns what failed."""
    global current
    failures = []
    # What a test leaves behind is finalized between the tests, where nothing is counted: which test a method is told to
    # be reached by must not depend on when the interpreter looks for garbage.
    gc.disable()
    for function in [function for function in tests if not sys.argv[1:] or function.__name__ in sys.argv[1:]]:
        current = function.__name__
        began = time.monotonic()
        sys.setprofile(watch)
        try:
            result = function()
            if inspect.iscoroutine(result):
                asyncio.run(result)
        except BaseException:
            sys.setprofile(None)
            failures.append(f"{current}:\n{traceback.format_exc()}")
        sys.setprofile(None)
        print(f"{time.monotonic() - began:6.1f} s {current}", file=sys.stderr)
        current = None
        gc.collect()
    return failures
