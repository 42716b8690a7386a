"""Measures a server with the published E2B SDK for Python; prints what it found as JSON, times in milliseconds."""

import asyncio
import importlib.metadata
import json
import os
import sys
import time

from e2b import AsyncSandbox

WISH = json.loads(sys.argv[1])
# Each is a shell in its guest: more of them would need more memory than a guest has.
STREAMS_IN_ONE = 25
COPIES = 3
COPY = "rm -f copy; sync; a=$EPOCHREALTIME; cp file copy; b=$EPOCHREALTIME; echo $((${b/./} - ${a/./})); rm copy"
# A line a second, without starting a program for each.
LINES = "exec 3<> <(:); for ((i = 0; i < %d; i++)); do echo $i; read -t 1 -u 3; done; :"


def sandbox(timeout=600):
    return AsyncSandbox.create(timeout=timeout, metadata=WISH["metadata"])


def since(began):
    return (time.perf_counter() - began) * 1000


async def create():
    began = time.perf_counter()
    made = await sandbox()
    said = (await made.commands.run("echo hello")).stdout
    took = since(began)
    assert said == "hello\n", said
    await made.kill()
    return took


async def creates(at_once):
    left, times = iter(range(WISH["runs"])), []

    async def some():
        for _ in left:
            times.append(await create())

    await asyncio.gather(*(some() for _ in range(at_once)))
    return times


async def files():
    made, content = await sandbox(), os.urandom(WISH["megabytes"] * 1_000_000)
    up, down, copies = [], [], []
    for _ in range(COPIES):
        await made.commands.run("rm -f file; sync")
        began = time.perf_counter()
        await made.files.write("file", content, request_timeout=600)
        up.append(since(began))
        began, size = time.perf_counter(), 0
        async for piece in await made.files.read("file", format="stream", request_timeout=600):
            size += len(piece)
        down.append(since(began))
        assert size == len(content), size
        copies.append(int((await made.commands.run(COPY, timeout=600)).stdout) / 1000)
    await made.kill()
    return up, down, copies


async def stream(made):
    try:
        result = await made.commands.run(LINES % WISH["hold_sec"], timeout=0, request_timeout=600)
    except Exception as error:
        print(f"a stream was lost: {error!r}", file=sys.stderr)
        return False
    return result.stdout.split() == [str(n) for n in range(WISH["hold_sec"])]


async def streams():
    count = WISH["streams"]
    made = [await sandbox(WISH["hold_sec"] + 600) for _ in range(-(-count // STREAMS_IN_ONE))]
    held = await asyncio.gather(*(stream(made[number % len(made)]) for number in range(count)))
    for one in made:
        await one.kill()
    return count, held.count(False)


async def main():
    one, eight = await creates(1), await creates(8)
    up, down, copies = await files()
    held, lost = await streams()
    print(json.dumps({
        "version": importlib.metadata.version("e2b"), "create_one": one, "create_eight": eight, "upload": up,
        "download": down, "copy_in_guest": copies, "streams": held, "streams_lost": lost,
    }), flush=True)


asyncio.run(main())
# All is told. The SDK's transport has threads of its own, which at times abort an interpreter that winds up beside them.
os._exit(0)
