"""The published E2B SDK for Python, as a program uses it that does many things at once."""

import asyncio
import datetime

import e2b
import httpx
from e2b import (
    ALL_TRAFFIC, AsyncSandbox, AsyncSecret, AsyncTemplate, AsyncVolume, CommandExitException, FileNotFoundException,
    FilesystemEventType, InvalidArgumentException, NotFoundException, PtySize, SandboxException,
    SandboxNotFoundException, SandboxQuery, SandboxState, TimeoutException,
)

from harness import SERVICE, ais_absent, api_url, auntil, repeated, routed, sandbox_url
from published_sdk import araises, test

UNKNOWN = "sb" + "0" * 20


async def sandbox_of(**options):
    return await AsyncSandbox.create(timeout=600, **options)


@routed
async def async_a_sandbox_from_its_creation_to_its_end():
    async with await sandbox_of(metadata={"kind": "async"}, envs={"A": "b"}) as sandbox:
        assert (await sandbox.commands.run("echo $A; whoami")).stdout == "b\nuser\n"
        assert await sandbox.is_running()
        info = await sandbox.get_info()
        assert info == await AsyncSandbox.get_info(sandbox.sandbox_id) and info.metadata == {"kind": "async"}
        await sandbox.set_timeout(1200)
        await AsyncSandbox.set_timeout(sandbox.sandbox_id, 1300)
        left = (await sandbox.get_info()).end_at - datetime.datetime.now(datetime.timezone.utc)
        assert datetime.timedelta(seconds=1250) < left
        pages = AsyncSandbox.list(SandboxQuery(metadata={"kind": "async"}), limit=1)
        assert pages.has_next and pages.next_token is None
        assert [one.sandbox_id for one in await pages.next_items()] == [sandbox.sandbox_id] and not pages.has_next
        assert await auntil("its first metrics", sandbox.get_metrics)
        assert await AsyncSandbox.get_metrics(sandbox.sandbox_id)
        assert sandbox.connection_config.api_url == api_url()
        assert sandbox.envd_api_url == sandbox.envd_direct_url == sandbox_url(sandbox)
        assert sandbox.get_host(80) == f"80-{sandbox.sandbox_id}.{sandbox.sandbox_domain}"
        assert sandbox.traffic_access_token is None and sandbox.get_mcp_url().endswith("/mcp")
        await araises(FileNotFoundException, sandbox.get_mcp_token())
    assert not await sandbox.is_running()
    assert await sandbox.kill() is False and await AsyncSandbox.kill(UNKNOWN) is False


@test
async def async_a_sandbox_is_paused_forked_and_kept():
    sandbox = await sandbox_of()
    await sandbox.files.write("state", "kept")
    child, = await sandbox.fork(timeout=600)
    other, = await AsyncSandbox.fork(sandbox.sandbox_id, timeout=600)
    for copy in (child, other):
        assert await copy.files.read("state") == "kept"
        await copy.kill()
    snapshot = await sandbox.create_snapshot(name="async-snapshot")
    second = await AsyncSandbox.create_snapshot(sandbox.sandbox_id)
    listed = sandbox.list_snapshots(limit=1)
    assert len(await listed.next_items()) == 1 and listed.has_next and listed.next_token
    assert len(await AsyncSandbox.list_snapshots(name="async-snapshot").next_items()) == 1
    for one in (snapshot, second):
        assert await AsyncSandbox.delete_snapshot(one.snapshot_id) is True
        assert await AsyncSandbox.delete_snapshot(one.snapshot_id) is False
    assert await sandbox.pause() is True and await sandbox.beta_pause() is False
    assert (await sandbox.get_info()).state == SandboxState.PAUSED
    await sandbox.connect(timeout=600)
    assert await AsyncSandbox.pause(sandbox.sandbox_id) is True
    assert await AsyncSandbox.beta_pause(sandbox.sandbox_id) is False
    same = await AsyncSandbox.connect(sandbox.sandbox_id, timeout=600)
    assert await same.files.read("state") == "kept"
    assert await same.kill() is True


@test
async def async_a_sandbox_is_paused_without_its_memory():
    sandbox = await sandbox_of()
    boot = lambda: sandbox.commands.run("cat /proc/sys/kernel/random/boot_id")
    first = (await boot()).stdout
    await sandbox.files.write("kept", "1")
    assert await sandbox.pause(mode="filesystem") is True
    assert (await sandbox.get_info()).state == SandboxState.PAUSED and not await sandbox.is_running()
    await sandbox.connect(timeout=600)
    assert await sandbox.files.read("kept") == "1" and (await boot()).stdout != first
    await sandbox.kill()


@routed
async def async_a_paused_sandbox_is_woken_once_by_many():
    sandbox = await sandbox_of(lifecycle={"on_timeout": "pause", "auto_resume": True})
    await sandbox.files.write("f", "x")
    await sandbox.pause()
    assert await asyncio.gather(*(sandbox.files.read("f") for _ in range(20))) == ["x"] * 20
    await sandbox.kill()


@test
async def async_networks_are_replaced():
    sandbox = await sandbox_of(network={"allow_public_traffic": False})
    assert sandbox.traffic_access_token
    await sandbox.update_network({"allow_out": ["1.1.1.1"], "deny_out": [ALL_TRAFFIC]})
    assert (await sandbox.get_info()).network["deny_out"] == ["0.0.0.0/0"]
    await AsyncSandbox.update_network(sandbox.sandbox_id, {})
    assert (await sandbox.get_info()).network["deny_out"] == []
    await sandbox.kill()


@routed
async def async_commands_and_their_input():
    sandbox = await sandbox_of()
    commands = sandbox.commands
    error = await araises(CommandExitException, commands.run("echo no >&2; exit 3"))
    assert (error.exit_code, error.stderr) == (3, "no\n")
    await araises(TimeoutException, commands.run("sleep 60", timeout=1))
    heard = []
    handle = await commands.run("read line; echo got $line; cat; exit 4", background=True, stdin=True, on_stdout=heard.append)
    assert any(one.pid == handle.pid for one in await commands.list())
    await commands.send_stdin(handle.pid, "one\n")
    await handle.send_stdin("two")
    await handle.close_stdin()
    await araises(CommandExitException, handle.wait())
    assert (handle.stdout, handle.stderr, handle.exit_code) == ("got one\ntwo", "", 4) and handle.error
    assert "".join(heard) == "got one\ntwo"

    handle = await commands.run("cat", background=True, stdin=True)
    stream = commands.stream_input(handle.pid)
    await stream.send("a")
    await stream.send(b"b")
    await stream.close()
    await commands.close_stdin(handle.pid)
    assert (await handle.wait()).stdout == "ab"

    handle = await commands.run("sleep 1000", background=True)
    await handle.disconnect()
    again = await commands.connect(handle.pid)
    assert await again.kill() is True
    await araises(CommandExitException, again.wait())
    assert await commands.kill(handle.pid) is False
    results = await asyncio.gather(*(commands.run(f"echo {n}") for n in range(20)))
    assert [result.stdout for result in results] == [f"{n}\n" for n in range(20)]

    terminal, shown = sandbox.pty, []
    handle = await terminal.create(PtySize(rows=20, cols=70), on_data=shown.append)
    said = lambda text: auntil(text, lambda: asyncio.sleep(0, text in b"".join(shown).decode(errors="replace")))
    await terminal.send_stdin(handle.pid, b"stty size\n")
    await said("20 70")
    await terminal.resize(handle.pid, PtySize(rows=30, cols=90))
    stream = terminal.stream_input(handle.pid)
    await stream.send(b"stty size\n")
    await stream.close()
    await said("30 90")
    other = await terminal.connect(handle.pid, on_data=shown.append)
    assert other.pid == handle.pid and await terminal.kill(handle.pid) is True
    await sandbox.kill()


@routed
async def async_files():
    sandbox = await sandbox_of()
    files = sandbox.files
    assert await files.make_dir("d") is True and await files.make_dir("d") is False
    await files.write("d/a", "text")
    await files.write_files([{"path": "d/b", "data": b"b"}, {"path": "d/c", "data": "c"}])
    assert [one.name for one in await files.list("d")] == ["a", "b", "c"]
    assert await files.read("d/a") == "text"
    assert [piece async for piece in await files.read("d/b", format="stream")] == [b"b"]
    assert (await files.get_info("d/a")).size == 4
    await files.rename("d/a", "d/z")
    assert await files.exists("d/z") and not await files.exists("d/a")
    address = sandbox.download_url("d/z")
    async with httpx.AsyncClient() as client:
        assert (await client.get(address)).text == "text"
        sent = await client.post(sandbox.upload_url("d/y"), files={"file": ("y", b"by address")})
        assert sent.status_code == 200
    assert await files.read("d/y") == "by address"

    told, ended = [], []
    handle = await files.watch_dir("d", on_event=told.append, on_exit=ended.append, recursive=True)
    await files.write("d/new", "x")
    kinds = FilesystemEventType
    seen = lambda kind: auntil(str(kind), lambda: asyncio.sleep(0, any(e.name == "new" and e.type == kind for e in told)))
    await seen(kinds.CREATE)
    await seen(kinds.WRITE)
    await files.remove("d/new")
    await seen(kinds.REMOVE)
    await handle.stop()
    await araises(NotFoundException, files.watch_dir("no/such", on_event=told.append))
    await files.remove("d")
    await araises(FileNotFoundException, files.read("d/z"))
    await sandbox.kill()


@routed
async def async_services_have_names_of_their_own():
    sandbox = await sandbox_of()
    await sandbox.files.write("service.py", SERVICE)
    await sandbox.commands.run("python3 service.py", background=True)
    host = sandbox.get_host(8000)
    async with httpx.AsyncClient() as client:
        async def answered():
            answer = await client.get(f"https://{host}/x")
            return answer if answer.status_code == 200 else None

        assert (await auntil("the service", answered)).json()["host"] == host
    assert await asyncio.to_thread(repeated, host, "a word") == "a word"
    await sandbox.kill()


@test
async def async_repositories():
    sandbox = await sandbox_of()
    git, repo = sandbox.git, "/home/user/repo"
    await git.configure_user("A U Thor", "author@example.com")
    await git.init("/home/user/origin", bare=True, initial_branch="main")
    await git.clone("/home/user/origin", path=repo)
    await sandbox.files.write(f"{repo}/f", "1")
    assert (await git.status(repo)).file_status[0].name == "f"
    await git.add(repo)
    await git.commit(repo, "first")
    await git.push(repo, remote="origin", branch="main")
    await git.create_branch(repo, "other")
    await git.checkout_branch(repo, "main")
    assert sorted((await git.branches(repo)).branches) == ["main", "other"]
    await git.delete_branch(repo, "other")
    await sandbox.files.write(f"{repo}/f", "2")
    await git.restore(repo, ["f"])
    await git.reset(repo)
    await git.remote_add(repo, "second", "/home/user/origin")
    assert await git.remote_get(repo, "second") == "/home/user/origin"
    await git.set_config("pull.rebase", "false")
    assert await git.get_config("pull.rebase") == "false"
    await git.pull(repo, remote="origin", branch="main")
    await git.dangerously_authenticate("name", "secret")
    assert "secret" in await sandbox.files.read(".git-credentials")
    await sandbox.kill()


@test
async def async_templates_have_tags():
    given = await AsyncTemplate.assign_tags("base", "async-v1")
    assert given.tags == ["async-v1"]
    tags = {one.tag: one.build_id for one in await AsyncTemplate.get_tags("base")}
    assert tags["async-v1"] == tags["default"] == given.build_id
    async with await AsyncSandbox.create("base:async-v1", timeout=600) as sandbox:
        assert await sandbox.is_running()
    await AsyncTemplate.remove_tags("base", ["async-v1"])
    assert not await AsyncTemplate.exists("base:async-v1")
    await araises(SandboxException, AsyncSandbox.create("base:async-v1"))


@test
async def async_what_is_not_offered_says_so():
    assert await AsyncTemplate.exists("base") and await AsyncTemplate.alias_exists("base")
    assert [one.tag for one in await AsyncTemplate.get_tags("base")] == ["default"]
    template = AsyncTemplate().from_image("debian:12").run_cmd("true")
    build = e2b.BuildInfo(alias="mine", name="mine", tags=[], template_id="mine", build_id="1")
    await ais_absent("AsyncTemplate.build", AsyncTemplate.build(template, "mine"))
    await ais_absent("AsyncTemplate.build_in_background", AsyncTemplate.build_in_background(template, "mine"))
    await ais_absent("AsyncTemplate.get_build_status", AsyncTemplate.get_build_status(build))
    await ais_absent("AsyncVolume.create", AsyncVolume.create("v"))
    await ais_absent("AsyncVolume.connect", AsyncVolume.connect("v"))
    await ais_absent("AsyncVolume.destroy", AsyncVolume.destroy("v"))
    await ais_absent("AsyncSecret.create", AsyncSecret.create("s", "value"))
    await ais_absent("AsyncSecret.update", AsyncSecret.update("s", "value"))
    await ais_absent("AsyncSecret.get_info", AsyncSecret.get_info("s"))
    await ais_absent("AsyncSecret.exists", AsyncSecret.exists("s"))
    await ais_absent("AsyncSecret.destroy", AsyncSecret.destroy("s"))
