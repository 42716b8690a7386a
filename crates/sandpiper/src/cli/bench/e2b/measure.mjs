// Measures a server with the published E2B SDK for JavaScript; prints what it found as JSON, times in milliseconds.

import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { performance } from 'node:perf_hooks'
import { pathToFileURL } from 'node:url'

const packageFile = join(process.env.E2B_PACKAGES, 'node_modules/e2b/package.json')
const { Sandbox } = await import(pathToFileURL(createRequire(packageFile).resolve('e2b')))
const wish = JSON.parse(process.argv[2])
// Each is a shell in its guest: more of them would need more memory than a guest has.
const STREAMS_IN_ONE = 25
const COPIES = 3
const COPY = 'rm -f copy; sync; a=$EPOCHREALTIME; cp file copy; b=$EPOCHREALTIME; echo $((${b/./} - ${a/./})); rm copy'
// A line a second, without starting a program for each.
const LINES = `exec 3<> <(:); for ((i = 0; i < ${wish.hold_sec}; i++)); do echo $i; read -t 1 -u 3; done; :`
const PATIENCE = { requestTimeoutMs: 600_000 }

const sandbox = (seconds = 600) => Sandbox.create({ timeoutMs: seconds * 1000, metadata: wish.metadata })

async function create() {
  const began = performance.now()
  const made = await sandbox()
  const { stdout } = await made.commands.run('echo hello')
  const took = performance.now() - began
  assert.equal(stdout, 'hello\n')
  await made.kill()
  return took
}

async function creates(atOnce) {
  const times = []
  let left = wish.runs
  const some = async () => {
    while (left-- > 0) times.push(await create())
  }
  await Promise.all(Array.from({ length: atOnce }, some))
  return times
}

async function files() {
  const made = await sandbox()
  const content = new Blob([randomBytes(wish.megabytes * 1_000_000)])
  const [up, down, copies] = [[], [], []]
  for (let n = 0; n < COPIES; n++) {
    await made.commands.run('rm -f file; sync')
    let began = performance.now()
    await made.files.write('file', content, PATIENCE)
    up.push(performance.now() - began)
    began = performance.now()
    let size = 0
    for await (const piece of await made.files.read('file', { format: 'stream', ...PATIENCE })) size += piece.length
    down.push(performance.now() - began)
    assert.equal(size, content.size)
    copies.push(Number((await made.commands.run(COPY, { timeoutMs: 600_000 })).stdout) / 1000)
  }
  await made.kill()
  return { up, down, copies }
}

async function stream(made) {
  try {
    const { stdout } = await made.commands.run(LINES, { timeoutMs: 0, ...PATIENCE })
    return stdout === Array.from({ length: wish.hold_sec }, (_, n) => `${n}\n`).join('')
  } catch (error) {
    console.error(`a stream was lost: ${error}`)
    return false
  }
}

async function streams() {
  const made = []
  for (let n = 0; n < wish.streams; n += STREAMS_IN_ONE) made.push(await sandbox(wish.hold_sec + 600))
  const held = await Promise.all(Array.from({ length: wish.streams }, (_, n) => stream(made[n % made.length])))
  for (const one of made) await one.kill()
  return held.filter((held) => !held).length
}

const create_one = await creates(1)
const create_eight = await creates(8)
const { up, down, copies } = await files()
const streams_lost = await streams()
const { version } = JSON.parse(readFileSync(packageFile, 'utf8'))
const found = {
  version, create_one, create_eight, upload: up, download: down, copy_in_guest: copies, streams: wish.streams, streams_lost,
}
process.stdout.write(JSON.stringify(found), () => process.exit(0))
