// The published E2B SDK for JavaScript against a server: only its environment variables are set. Each public method is
// wrapped in a note that it was called, which changes nothing of what it does. Writes what it found to standard output,
// as JSON.

import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { pathToFileURL } from 'node:url'

const packageFile = join(process.env.E2B_PACKAGES, 'node_modules/e2b/package.json')
const require = createRequire(packageFile)
const e2b = await import(pathToFileURL(require.resolve('e2b')))
const { Sandbox } = e2b
const declared = readFileSync(join(dirname(packageFile), 'dist/index.d.ts'), 'utf8')

const UNKNOWN = 'sb' + '0'.repeat(20)
const reached = {}
const absent = {}
const methods = new Set()
let current

// What the declarations keep for the SDK itself is nobody's to test.
const hidden = new Set(
  [...declared.matchAll(/^ {2}(?:private|protected)(?: static)?(?: readonly)?(?: get)? (\w+)/gm)].map((found) => found[1]),
)

// The public methods that a class itself is declared with: some have the name of a private one of its instances.
function declaredStatics(name) {
  const [, body] = declared.match(new RegExp(`^declare class ${name} [^\\n]*\\{\\n(.*?)^\\}`, 'ms'))
  return new Set([...body.matchAll(/^ {2}static (\w+)/gm)].map((found) => found[1]))
}

function observe(owner, object, kind = '', isPublic = (name) => !hidden.has(name)) {
  for (const name of Object.getOwnPropertyNames(object)) {
    const described = Object.getOwnPropertyDescriptor(object, name)
    if (name === 'constructor' || !isPublic(name) || typeof described.value !== 'function') continue
    if (typeof object === 'function' && ['length', 'name', 'prototype'].includes(name)) continue
    const label = `${owner}.${name}${kind}`
    methods.add(label)
    const own = described.value
    Object.defineProperty(object, name, {
      ...described,
      value(...given) {
        if (current) (reached[label] ??= new Set()).add(current)
        return own.apply(this, given)
      },
    })
  }
}

const observed = new Set()
function observeOnce(owner, object) {
  const kind = Object.getPrototypeOf(object)
  if (!observed.has(kind)) observe(owner, kind)
  observed.add(kind)
  return object
}

observe('Sandbox', Sandbox.prototype, ' (instance)')
for (let base = Sandbox; base !== Function.prototype && base.name; base = Object.getPrototypeOf(base)) {
  observe('Sandbox', base, ' (class)')
}

// A template's description is made without any server: only what its class does asks one.
for (const [name, declaredAs] of [['Template', 'TemplateBase'], ['Volume', 'Volume'], ['Secret', 'Secret']]) {
  const statics = declaredStatics(declaredAs)
  observe(name, e2b[name], ' (class)', (method) => statics.has(method))
}
observe('Volume', e2b.Volume.prototype, ' (instance)')

// What needs a volume to begin with, and there is none: its creation is answered 501.
const needsOne = { 'Volume (instance)': 'Volume.create (class)' }

// The server says, to a person, that it does not offer what a method needs.
async function isAbsent(method, promise) {
  const error = await promise.then(() => assert.fail(`${method} works`), (error) => error)
  assert.match(String(error), /501.*does not offer/, method)
  absent[method] = String(error).split('does not offer ')[1].trim().split(';')[0]
}

const tests = {}
const test = (name, body) => (tests[name] = body)
// What depends on how the API and the sandboxes are addressed: it is tested in both ways.
const routedTests = []
const routed = (name, body) => routedTests.push(name) && test(name, body)
const make = (more = {}) => Sandbox.create({ timeoutMs: 600_000, ...more })

function observeParts(sandbox) {
  for (const [owner, part] of [['Filesystem', 'files'], ['Commands', 'commands'], ['Pty', 'pty'], ['Git', 'git']]) {
    observeOnce(owner, sandbox[part])
  }
  return sandbox
}

let common
const shared = async () => (common ??= observeParts(await make()))

async function until(what, condition, seconds = 60) {
  for (const end = Date.now() + seconds * 1000; Date.now() < end; await new Promise((go) => setTimeout(go, 100))) {
    const found = await condition()
    if (found) return found
  }
  assert.fail(`${what}: not in ${seconds} s`)
}

routed('js_a_sandbox_from_its_creation_to_its_end', async () => {
  const metadata = { 'a b': 'c/d', kind: 'js' }
  const sandbox = await make({ metadata, envs: { A: 'b' } })
  assert.equal((await sandbox.commands.run('echo $A; whoami; pwd')).stdout, 'b\nuser\n/home/user\n')
  assert.ok(await sandbox.isRunning())
  const info = await sandbox.getInfo()
  assert.deepEqual([info.sandboxId, info.metadata, info.state], [sandbox.sandboxId, metadata, 'running'])
  assert.equal((await Sandbox.getInfo(sandbox.sandboxId)).sandboxId, sandbox.sandboxId)
  assert.equal((await Sandbox.getFullInfo(sandbox.sandboxId)).sandboxId, sandbox.sandboxId)
  await sandbox.setTimeout(1_200_000)
  await Sandbox.setTimeout(sandbox.sandboxId, 1_300_000)
  assert.ok((await sandbox.getInfo()).endAt - Date.now() > 1_250_000)
  const pages = observeOnce('SandboxPaginator', Sandbox.list({ query: { metadata, state: ['running', 'paused'] }, limit: 1 }))
  assert.deepEqual((await pages.nextItems()).map((one) => one.sandboxId), [sandbox.sandboxId])
  assert.ok(!pages.hasNext)
  assert.equal(sandbox.getHost(80), `80-${sandbox.sandboxId}.${sandbox.sandboxDomain}`)
  assert.ok(sandbox.getMcpUrl().endsWith('/mcp'))
  await assert.rejects(sandbox.getMcpToken(), e2b.NotFoundError)
  assert.ok((await until('its first metrics', async () => (await sandbox.getMetrics()).length > 0 && (await sandbox.getMetrics())))[0].memTotal)
  assert.ok((await Sandbox.getMetrics(sandbox.sandboxId)).length)
  assert.equal(await sandbox.kill(), true)
  assert.equal(await Sandbox.kill(UNKNOWN), false)
  assert.equal(await sandbox.isRunning(), false)
  await assert.rejects(sandbox.commands.run('true'))
  await assert.rejects(Sandbox.create('no-such-template'), /404/)
})

test('js_a_sandbox_is_paused_forked_and_kept', async () => {
  const sandbox = await make()
  await sandbox.files.write('state', 'kept')
  const [child] = await sandbox.fork({ timeoutMs: 600_000 })
  const [other] = await Sandbox.fork(sandbox.sandboxId, { timeoutMs: 600_000 })
  for (const copy of [child, other]) {
    assert.equal(await copy.files.read('state'), 'kept')
    await copy.kill()
  }
  const named = await sandbox.createSnapshot({ name: 'js-snapshot' })
  const unnamed = await Sandbox.createSnapshot(sandbox.sandboxId)
  const listed = observeOnce('SnapshotPaginator', sandbox.listSnapshots({ limit: 1 }))
  assert.equal((await listed.nextItems()).length, 1)
  assert.ok(listed.hasNext && listed.nextToken)
  assert.ok((await Sandbox.listSnapshots().nextItems()).length >= 2)
  const copy = await Sandbox.create(named.snapshotId, { timeoutMs: 600_000 })
  assert.equal(await copy.files.read('state'), 'kept')
  await copy.kill()
  for (const one of [named, unnamed]) {
    assert.equal(await Sandbox.deleteSnapshot(one.snapshotId), true)
    assert.equal(await Sandbox.deleteSnapshot(one.snapshotId), false)
  }
  assert.equal(await sandbox.pause(), true)
  assert.equal(await sandbox.betaPause(), false)
  assert.equal((await sandbox.getInfo()).state, 'paused')
  await sandbox.connect({ timeoutMs: 600_000 })
  assert.equal(await Sandbox.pause(sandbox.sandboxId), true)
  assert.equal(await Sandbox.betaPause(sandbox.sandboxId), false)
  const same = await Sandbox.connect(sandbox.sandboxId, { timeoutMs: 600_000 })
  assert.equal(await same.files.read('state'), 'kept')
  await same.kill()
})

test('js_a_sandbox_is_paused_without_its_memory', async () => {
  const sandbox = await make({ lifecycle: { onTimeout: { action: 'pause', keepMemory: false } } })
  const boot = async () => (await sandbox.commands.run('cat /proc/sys/kernel/random/boot_id')).stdout
  const first = await boot()
  await sandbox.files.write('kept', '1')
  assert.equal(await sandbox.pause({ keepMemory: false }), true)
  assert.equal(await sandbox.pause({ keepMemory: false }), false)
  assert.equal((await sandbox.getInfo()).state, 'paused')
  assert.equal(await sandbox.isRunning(), false)
  await sandbox.connect({ timeoutMs: 600_000 })
  const second = await boot()
  assert.notEqual(second, first)
  assert.equal(await sandbox.files.read('kept'), '1')
  assert.equal(await sandbox.pause(), true)
  await sandbox.connect({ timeoutMs: 600_000, onResume: 'reboot' })
  assert.notEqual(await boot(), second)
  await sandbox.kill()
})

test('js_networks_are_replaced', async () => {
  const sandbox = await make({ network: { allowPublicTraffic: false, httpsPorts: [8443] } })
  assert.ok(sandbox.trafficAccessToken)
  assert.deepEqual((await sandbox.getInfo()).network.httpsPorts, [8443])
  await sandbox.updateNetwork({ allowOut: ['1.1.1.1'], denyOut: [e2b.ALL_TRAFFIC] })
  await sandbox.updateNetwork({ egressProxy: { address: '203.0.113.9:1080', username: 'u', password: 'open sesame' } })
  const told = (await sandbox.getInfo()).network.egressProxy
  assert.deepEqual({ ...told }, { address: '203.0.113.9:1080', username: 'u' })
  const rules = new Map([['api.example.com', [{ transform: { headers: { 'X-Key': 'open sesame' } } }]]])
  await sandbox.updateNetwork({ allowOut: ({ rules }) => [...rules.keys()], denyOut: [e2b.ALL_TRAFFIC], rules })
  const ruled = (await sandbox.getInfo()).network
  assert.deepEqual(ruled.allowOut, ['api.example.com'])
  assert.deepEqual(ruled.rules['api.example.com'][0].transform.headers, { 'x-key': '***' })
  await Sandbox.updateNetwork(sandbox.sandboxId, {})
  const cleared = (await sandbox.getInfo()).network
  assert.deepEqual([cleared.egressProxy, cleared.rules], [undefined, undefined])
  await sandbox.kill()
})

routed('js_commands_and_terminals', async () => {
  const { commands, pty } = await shared()
  await assert.rejects(commands.run('echo no >&2; exit 3'), (error) => error.exitCode === 3 && error.stderr === 'no\n')
  await assert.rejects(commands.run('sleep 60', { timeoutMs: 1000 }), e2b.TimeoutError)
  const heard = []
  const handle = observeOnce('CommandHandle', await commands.run('read a; echo got $a; cat', {
    background: true, stdin: true, onStdout: (text) => void heard.push(text),
  }))
  assert.ok((await commands.list()).some((one) => one.pid === handle.pid))
  await commands.sendStdin(handle.pid, 'one\n')
  await handle.sendStdin('two')
  await handle.closeStdin()
  assert.equal((await handle.wait()).stdout, 'got one\ntwo')
  assert.equal(heard.join(''), 'got one\ntwo')
  const cat = await commands.run('cat', { background: true, stdin: true })
  await commands.closeStdin(cat.pid)
  await cat.wait()
  const sleeper = await commands.run('sleep 1000', { background: true })
  await sleeper.disconnect()
  const again = await commands.connect(sleeper.pid)
  assert.equal(await again.kill(), true)
  await assert.rejects(again.wait(), e2b.CommandExitError)
  assert.equal(await commands.kill(sleeper.pid), false)

  const shown = []
  const onData = (data) => void shown.push(Buffer.from(data))
  const said = (text) => until(text, () => Buffer.concat(shown).toString().includes(text))
  const terminal = await pty.create({ cols: 70, rows: 20, onData })
  const type = (text) => pty.sendInput(terminal.pid, new TextEncoder().encode(text))
  await type('stty size\n')
  await said('20 70')
  await pty.resize(terminal.pid, { cols: 90, rows: 30 })
  await type('stty size\n')
  await said('30 90')
  assert.equal((await pty.connect(terminal.pid, { onData })).pid, terminal.pid)
  assert.equal(await pty.kill(terminal.pid), true)
})

routed('js_files', async () => {
  const sandbox = await shared()
  const { files } = sandbox
  assert.equal(await files.makeDir('d'), true)
  assert.equal(await files.makeDir('d'), false)
  await files.write('d/a', 'text')
  await files.write('d/packed', 'packed'.repeat(1000), { gzip: true })
  assert.equal(await files.read('d/packed'), 'packed'.repeat(1000))
  await files.writeFiles([{ path: 'd/b', data: 'b' }, { path: 'd/c', data: 'c' }])
  assert.deepEqual((await files.list('d')).map((one) => one.name), ['a', 'b', 'c', 'packed'])
  assert.equal(Buffer.from(await files.read('d/a', { format: 'bytes' })).toString(), 'text')
  assert.equal((await files.getInfo('d/a')).size, 4)
  await files.rename('d/a', 'd/z')
  assert.deepEqual([await files.exists('d/z'), await files.exists('d/a')], [true, false])
  assert.equal(await (await fetch(await sandbox.downloadUrl('d/z'))).text(), 'text')
  const form = new FormData()
  form.append('file', new Blob(['by address']), 'y')
  assert.equal((await fetch(await sandbox.uploadUrl('d/y'), { method: 'POST', body: form })).status, 200)
  assert.equal(await files.read('d/y'), 'by address')
  const told = []
  const watch = observeOnce('WatchHandle', await files.watchDir('d', (event) => void told.push(event), { recursive: true }))
  await files.write('d/new', 'x')
  await files.remove('d/new')
  await until('its removal', () => told.some((event) => event.name === 'new' && event.type === 'remove'))
  assert.deepEqual(told.map((event) => event.type), ['create', 'chmod', 'write', 'remove'])
  await watch.stop()
  await files.remove('d')
  await assert.rejects(files.read('d/z'), e2b.NotFoundError)
})

routed('js_services_have_names_of_their_own', async () => {
  const sandbox = await make()
  await sandbox.files.write('service.py', readFileSync(new URL('service.py', import.meta.url), 'utf8'))
  await sandbox.commands.run('python3 service.py', { background: true })
  const host = sandbox.getHost(8000)
  const answer = await until('the service', async () => {
    const answer = await fetch(`https://${host}/x`)
    return answer.ok && (await answer.json())
  })
  assert.deepEqual([answer.host, answer['x-forwarded-proto']], [host, 'https'])
  const socket = new WebSocket(`wss://${host}/ws`)
  const repeated = await new Promise((told, failed) => {
    socket.onopen = () => socket.send('a word')
    socket.onmessage = ({ data }) => told(data)
    socket.onerror = (event) => failed(event.error ?? new Error('the WebSocket failed'))
  })
  assert.equal(repeated, 'a word')
  socket.close()
  await sandbox.kill()
  assert.equal((await (await fetch(`https://${host}`)).json()).message, 'The sandbox was not found')
})

test('js_repositories', async () => {
  const sandbox = await shared()
  const { git, files } = sandbox
  const repo = '/home/user/repo'
  await git.configureUser('A U Thor', 'author@example.com')
  await git.init('/home/user/origin', { bare: true, initialBranch: 'main' })
  await git.clone('/home/user/origin', { path: repo })
  await files.write(`${repo}/f`, '1')
  assert.equal((await git.status(repo)).fileStatus[0].name, 'f')
  await git.add(repo)
  await git.commit(repo, 'first')
  await git.push(repo, { remote: 'origin', branch: 'main' })
  await git.createBranch(repo, 'other')
  await git.checkoutBranch(repo, 'main')
  assert.deepEqual((await git.branches(repo)).branches.sort(), ['main', 'other'])
  await git.deleteBranch(repo, 'other')
  await files.write(`${repo}/f`, '2')
  await git.restore(repo, { paths: ['f'] })
  await git.reset(repo)
  await git.remoteAdd(repo, 'second', '/home/user/origin')
  assert.equal(await git.remoteGet(repo, 'second'), '/home/user/origin')
  await git.setConfig('pull.rebase', 'false')
  assert.equal(await git.getConfig('pull.rebase'), 'false')
  await git.pull(repo, { remote: 'origin', branch: 'main' })
  await git.dangerouslyAuthenticate({ username: 'name', password: 'secret' })
})

test('js_templates_are_there_or_not_and_cannot_be_built_here', async () => {
  const { Template } = e2b
  assert.ok((await Template.exists('base')) && (await Template.aliasExists('base')))
  assert.ok(!(await Template.exists('no-such-template')))
  assert.deepEqual((await Template.getTags('base')).map((one) => one.tag), ['default'])
  const template = Template().fromImage('debian:12').runCmd('true')
  assert.match(Template.toDockerfile(template), /^FROM debian:12/)
  assert.ok(JSON.parse(await Template.toJSON(template)).steps)
  await isAbsent('Template.build (class)', Template.build(template, 'mine'))
  await isAbsent('Template.buildInBackground (class)', Template.buildInBackground(template, 'mine'))
  await isAbsent('Template.getBuildStatus (class)', Template.getBuildStatus({ templateId: 'mine', buildId: '1' }))
})

test('js_templates_have_tags', async () => {
  const { Template } = e2b
  const given = await Template.assignTags('base:default', ['js-v1'])
  assert.deepEqual(given.tags, ['js-v1'])
  const tags = (await Template.getTags('base')).filter((one) => one.buildId === given.buildId).map((one) => one.tag)
  assert.deepEqual(tags.sort(), ['default', 'js-v1'])
  const sandbox = await Sandbox.create('base:js-v1', { timeoutMs: 600_000 })
  assert.ok(await sandbox.isRunning())
  await sandbox.kill()
  await Template.removeTags('base', 'js-v1')
  assert.ok(!(await Template.exists('base:js-v1')))
})

test('js_volumes_and_secrets_are_not_offered', async () => {
  const { Secret, Volume } = e2b
  for (const method of ['create', 'connect', 'getInfo', 'list', 'destroy']) {
    await isAbsent(`Volume.${method} (class)`, Volume[method]('v'))
  }
  await isAbsent('Secret.create (class)', Secret.create('s', 'value'))
  await isAbsent('Secret.update (class)', Secret.update('s', 'value'))
  for (const method of ['getInfo', 'exists', 'destroy']) await isAbsent(`Secret.${method} (class)`, Secret[method]('s'))
  const secrets = observeOnce('SecretPaginator', Secret.list())
  await isAbsent('Secret.list (class)', secrets.nextItems())
  await isAbsent('SecretPaginator.nextItems', secrets.nextItems())
  assert.equal(Secret.fill('s'), '${e2b.secrets.s}')
  const token = { audience: 'a', tokenType: 'JWT-SVID' }
  assert.deepEqual(Secret.iamToken(token), token)
})

const given = process.argv.slice(2)
const chosen = given[0] === '--routed' ? routedTests : given
const failures = []
for (const [name, body] of Object.entries(tests)) {
  if (chosen.length && !chosen.includes(name)) continue
  current = name
  const began = Date.now()
  try {
    await body()
  } catch (error) {
    failures.push(`${name}:\n${error.stack}`)
  }
  console.error(`${name}: ${(Date.now() - began) / 1000} s`)
}
const what = (method) => {
  const missing = absent[method] ?? (reached[method] ? undefined : absent[needsOne[method.replace(/\.\w+/, '')]])
  return missing ? `501: ${missing}` : [...(reached[method] ?? [''])].sort()[0]
}
const found = Object.fromEntries([...methods].sort().map((method) => [method, what(method)]))
const { version } = JSON.parse(readFileSync(packageFile, 'utf8'))
process.stdout.write(JSON.stringify({ version, failures, methods: found, routed: routedTests }), () => process.exit(0))
