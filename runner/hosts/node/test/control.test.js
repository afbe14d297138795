'use strict'

const { test, before, beforeEach, after } = require('node:test')
const assert = require('node:assert/strict')
const { spawn } = require('node:child_process')
const { once } = require('node:events')
const fs = require('node:fs')
const net = require('node:net')
const os = require('node:os')
const path = require('node:path')
const { Host, Runner, MAIN, alive, deadline, eventually, sleep } = require('../testing/harness')

const ECHO = 'exports.handler = async (event) => event.body\n'
let host

// Most tests share one host, one after the other: that it lives through them is part of each.
before(async () => { host = await Host.start() })
beforeEach(() => host.reset())
after(() => host.remove())

/** A host of the test's own, which it may end. */
async function withOwnHost (options, work) {
  const own = await Host.start(options)
  try {
    await work(own)
  } finally {
    await own.remove()
  }
}

test('hello names wire, runtime and version', () => {
  assert.deepEqual(host.runner.version, { event: 'hello', wire: 1, runtime: 'node', version: process.versions.node })
})

test('unknown wire version is refused', async () => {
  host.runner.send({ op: 'hello', wire: 2 })
  assert.equal((await host.runner.read()).event, 'error')
})

test('loaded worker answers calls', async () => {
  await host.loaded('a', ECHO)
  const reply = await host.call('a', { body: 'hello' })
  assert.deepEqual([reply.status, reply.text, reply.header('Fn-Http-Status')], [200, 'hello', '200'])
})

test('worker socket is open to other users, control socket private by default', async () => {
  await host.loaded('a', ECHO)
  assert.equal(fs.statSync(host.socketOf('a')).mode & 0o777, 0o666)
  assert.equal(fs.statSync(host.control).mode & 0o777, 0o600)
})

test('control socket mode is as asked', () => withOwnHost({ args: ['--control-mode', '0666'] }, (own) => {
  assert.equal(fs.statSync(own.control).mode & 0o777, 0o666)
}))

test('import error fails the load with reason and log', async () => {
  const answer = await host.load('a', "console.log('before')\nrequire('./no-such-file')\nexports.handler = () => {}\n")
  assert.equal(answer.event, 'failed')
  assert.equal(answer.reason, "Error: Cannot find module './no-such-file'")
  assert.match(answer.log, /before[\s\S]*no-such-file/)
  assert.doesNotMatch(answer.log, /src\/handlers\.js|node:internal/)
  assert.ok(Buffer.byteLength(answer.log) <= 1024)
})

test('syntax error fails the load', async () => {
  const answer = await host.load('a', 'exports.handler = (\n')
  assert.equal(answer.event, 'failed')
  assert.match(answer.reason, /^SyntaxError/)
})

test('exit at import fails the load', async () => {
  assert.equal((await host.load('a', 'process.exit(3)\n')).reason, 'worker ended while loading: exit code 3')
})

test('rejected top-level await fails the load', async () => {
  const answer = await host.load('a', { 'func.mjs': "await Promise.reject(new TypeError('nope'))\nexport const handler = 1\n" })
  assert.equal(answer.reason, 'TypeError: nope')
})

test('missing handler and missing code fail the load', async () => {
  assert.equal((await host.load('a', 'exports.x = 1\n')).reason, 'func.js exports no "handler"')
  assert.equal((await host.load('b', ECHO, { code: '/nowhere/at/all' })).event, 'failed')
})

test('load that takes too long is killed', async () => {
  const started = Date.now()
  const answer = await host.load('a', "console.log('importing')\nfor (;;) {}\n", { startTimeoutMs: 1000 })
  assert.deepEqual([answer.event, answer.reason, answer.log], ['failed', 'loading took longer than 1000 ms', 'importing'])
  assert.ok(Date.now() - started < 5000)
})

test('failed revision can be loaded again', async () => {
  assert.equal((await host.load('a', 'boom()\n')).event, 'failed')
  fs.rmSync(host.write('a', {}), { recursive: true })
  await host.loaded('a', ECHO)
  assert.equal((await host.call('a', { body: 'x' })).text, 'x')
})

test('second load of a revision is refused and the first serves on', async () => {
  await host.loaded('a', ECHO)
  assert.equal((await host.load('a', ECHO)).reason, 'revision is already loaded')
  assert.equal((await host.call('a', { body: 'x' })).text, 'x')
})

test('unload ends the process and removes the socket', async () => {
  const pid = await host.loaded('a', ECHO)
  assert.equal((await host.request('unload', 'a', { graceMs: 5000 })).event, 'unloaded')
  assert.ok(!alive(pid) && !fs.existsSync(host.socketOf('a')))
})

test('unload lets a running call finish', async () => {
  await host.loaded('a', "exports.handler = async () => { console.log('in'); await new Promise((r) => setTimeout(r, 500)); return 'done' }\n")
  const reply = host.call('a')
  await eventually(() => host.messages({ message: 'in' }).length, 'call began')
  await host.request('unload', 'a', { graceMs: 5000 })
  assert.equal((await reply).text, 'done')
})

test('unload kills after the grace', async () => {
  const pid = await host.loaded('a', "console.log('in')\nexports.handler = () => { console.log('running'); for (;;) {} }\n")
  const reply = host.call('a').catch(() => 'broken')
  await eventually(() => host.messages({ message: 'running' }).length, 'call began')
  const started = Date.now()
  await host.request('unload', 'a', { graceMs: 300 })
  assert.ok(!alive(pid) && Date.now() - started > 200 && Date.now() - started < 3000)
  assert.equal(await reply, 'broken')
})

test('unload and kill of an unknown revision are answered', async () => {
  assert.equal((await host.request('unload', 'nobody', { graceMs: 0 })).event, 'unloaded')
  assert.equal((await host.request('kill', 'nobody')).event, 'killed')
})

test('kill ends a hanging call and what it started', async () => {
  await host.loaded('a', "exports.handler = () => { const c = require('child_process').spawn('sleep', ['1000']); console.log(c.pid); for (;;) {} }\n")
  const reply = host.call('a').catch(() => 'broken')
  const child = Number(await eventually(() => host.messages({ call: 'call-1' })[0], 'child'))
  assert.ok(alive(child))
  assert.equal((await host.request('kill', 'a')).event, 'killed')
  assert.equal(await reply, 'broken')
  await eventually(() => !alive(child), 'child is killed')
})

test('kill while loading fails the load', async () => {
  host.runner.send({ op: 'load', id: 101, revision: 'a', ...host.loadRequest('a', 'for (;;) {}\n') })
  host.runner.send({ op: 'kill', id: 102, revision: 'a' })
  const [first, second] = [await host.runner.read(), await host.runner.read()]
  assert.deepEqual([first.event, first.id, first.reason], ['failed', 101, 'killed while it was loading'])
  assert.deepEqual([second.event, second.id], ['killed', 102])
})

test('worker that exits is reported with its code', async () => {
  await host.loaded('a', "exports.handler = () => { console.log('bye'); process.exit(7) }\n")
  await assert.rejects(host.call('a'))
  assert.deepEqual(await host.runner.read(), {
    event: 'exited', revision: 'a', code: 7, signal: null, log: 'bye', calls: { 'call-1': 'bye\n' }
  })
})

test('uncaught exception after a call ends the worker with its trace', async () => {
  await host.loaded('a', "exports.handler = async () => { setTimeout(() => { throw new Error('later') }, 10); return 'ok' }\n")
  assert.equal((await host.call('a')).text, 'ok')
  const event = await host.runner.read()
  assert.deepEqual([event.event, event.code], ['exited', 1])
  assert.match(event.log, /later/)
})

test('worker killed from outside is reported with its signal', async () => {
  const pid = await host.loaded('a', ECHO)
  process.kill(pid, 'SIGKILL')
  const event = await host.runner.read()
  assert.deepEqual([event.event, event.code, event.signal], ['exited', null, 'SIGKILL'])
  await host.loaded('a', ECHO)
})

test('heap limit ends the worker and is reported', async () => {
  await host.loaded('a', 'const kept = []\nexports.handler = () => { for (;;) kept.push(new Array(1e5).fill(kept.length)) }\n', { memoryBytes: 64 << 20 })
  await assert.rejects(host.call('a'))
  const event = await host.runner.read()
  assert.deepEqual([event.event, event.signal], ['exited', 'SIGABRT'])
  assert.ok(host.messages({ stream: 'stderr' }).some((m) => m.includes('heap out of memory')))
})

test('new connection kills every worker before hello', async () => {
  const pids = [await host.loaded('a', ECHO), await host.loaded('b', ECHO)]
  const old = host.runner
  host.runner = await Runner.hello(host.control)
  assert.equal(host.runner.version.event, 'hello')
  assert.ok(!pids.some(alive))
  assert.equal(await old.read(), null, "the old runner's connection is closed")
  await host.loaded('a', ECHO)
})

test('workers outlive a closed connection until the next one', async () => {
  const pid = await host.loaded('a', ECHO)
  host.runner.close()
  assert.equal((await host.call('a', { body: 'x' })).text, 'x')
  host.runner = await Runner.hello(host.control)
  assert.ok(!alive(pid))
})

test('new connection ends a load under way', async () => {
  host.runner.send({ op: 'load', id: 101, revision: 'a', ...host.loadRequest('a', "console.log('up')\nfor (;;) {}\n") })
  await eventually(() => host.messages({ message: 'up' }).length, 'import began')
  host.runner = await Runner.hello(host.control)
  fs.rmSync(host.write('a', {}), { recursive: true })
  await host.loaded('a', ECHO)
})

test('line above the limit closes the connection', async () => {
  host.runner.socket.write('x'.repeat(1024 * 1024 + 10) + '\n')
  assert.equal(await host.runner.read(), null)
  host.runner = await Runner.hello(host.control)
  await host.loaded('a', ECHO)
})

for (const line of ['not json\n', '[]\n', Buffer.from([0xff, 0xfe, 10]), 'null\n']) {
  test(`line that is no object closes the connection: ${JSON.stringify(line)}`, async () => {
    host.runner.socket.write(line)
    assert.equal(await host.runner.read(), null)
    host.runner = await Runner.hello(host.control)
  })
}

for (const fields of [{ concurrency: 0 }, { concurrency: '1' }, { env: { A: 1 } }, { env: { 'A=B': 'x' } }, { env: [] },
  { memoryBytes: -1 }, { startTimeoutMs: true }, { handler: 7 }, { socket: '' }, { code: null }, { app: 1 }]) {
  test(`invalid load is answered with an error: ${JSON.stringify(fields)}`, async () => {
    const answer = await host.load('a', ECHO, fields)
    assert.equal(answer.event, 'error')
    assert.ok(answer.reason.includes(Object.keys(fields)[0]))
  })
}

test('unknown op and a revision with a path in it are answered with an error', async () => {
  assert.equal((await host.request('dance', 'a')).event, 'error')
  assert.equal((await host.request('kill', '../x')).event, 'error')
})

test('socket path that is too long fails the load', async () => {
  const answer = await host.load('a', ECHO, { socket: path.join(host.directory, 's'.repeat(120)) })
  assert.equal(answer.event, 'failed')
  assert.match(answer.reason, /107/)
})

test('environment is clean', () => withOwnHost({ env: { AMQP_URL: 'amqp://secret', FUNCATRON_X: 'y', NODE_OPTIONS: '--no-warnings' } }, async (own) => {
  await own.loaded('a', `exports.handler = () => ({ env: { ...process.env }, cwd: process.cwd(), argv: process.argv.length,
    initial: require('fs').readFileSync('/proc/self/environ', 'utf8') })\n`,
  { env: { GREETING: 'hello', Mixed_Case: 'kept', FN_LISTENER: 'nonsense' }, memoryBytes: 256 << 20 })
  const { env, cwd, initial } = (await own.call('a')).json
  const expected = ['PATH', 'HOME', 'LANG', 'TZ', 'GREETING', 'Mixed_Case', 'FN_APP_NAME', 'FN_APP_ID', 'FN_FN_NAME',
    'FN_FN_ID', 'FN_FORMAT', 'FN_LISTENER', 'FN_MEMORY', 'FN_TYPE', ...(process.env.TMPDIR ? ['TMPDIR'] : [])]
  assert.deepEqual(Object.keys(env).sort(), expected.sort())
  assert.deepEqual([env.GREETING, env.Mixed_Case, env.FN_MEMORY, env.FN_APP_NAME, env.FN_FN_NAME, env.FN_FORMAT],
    ['hello', 'kept', '256', 'shop', 'orders', 'http-stream'])
  assert.equal(env.FN_LISTENER, `unix:${own.socketOf('a')}`)
  assert.doesNotMatch(initial, /secret|FUNCATRON|GREETING/)
  assert.equal(cwd, path.join(own.directory, 'code-a'))
}))

test('values of the environment never reach the log', async () => {
  await host.loaded('a', ECHO, { env: { SECRET: 'hidden-value' } })
  await host.load('b', 'boom()\n', { env: { SECRET: 'hidden-value' } })
  assert.ok(!fs.readFileSync(host.logPath, 'utf8').includes('hidden-value'))
})

test('sigterm ends host and workers', () => withOwnHost({}, async (own) => {
  const pids = [await own.loaded('a', ECHO), await own.loaded('b', ECHO)]
  own.process.kill('SIGTERM')
  assert.deepEqual(await own.exited, [0, null])
  assert.ok(!pids.some(alive) && !fs.existsSync(own.control))
}))

test('sigterm kills after the grace', () => withOwnHost({ args: ['--grace-ms', '300'] }, async (own) => {
  const pid = await own.loaded('a', "exports.handler = () => { console.log('running'); for (;;) {} }\n")
  own.call('a').catch(() => {})
  await eventually(() => own.messages({ message: 'running' }).length, 'call began')
  assert.equal(await own.stop(), 0)
  assert.ok(!alive(pid))
}))

test('killed host takes its workers and its spare along', () => withOwnHost({}, async (own) => {
  const pid = await own.loaded('a', ECHO)
  const children = fs.readFileSync(`/proc/${own.process.pid}/task/${own.process.pid}/children`, 'utf8').trim().split(' ').map(Number)
  assert.ok(children.includes(pid))
  own.process.kill('SIGKILL')
  await own.exited
  await eventually(() => !children.some(alive), 'workers end with their host')
}))

test('host ends with its stdin when asked', async () => {
  const directory = fs.mkdtempSync(path.join(os.tmpdir(), 'fh-'))
  const control = path.join(directory, 'c.sock')
  const child = spawn(process.execPath, [MAIN, '--control', control, '--exit-with-stdin'], { stdio: ['pipe', 'inherit', 'inherit'] })
  await eventually(() => fs.existsSync(control), 'control socket')
  child.stdin.end()
  assert.deepEqual(await once(child, 'exit'), [0, null])
  fs.rmSync(directory, { recursive: true })
})

test('bad flags are answered with the usage', async () => {
  for (const args of [[], ['--control'], ['--control', 'x', '--control-mode', '9'], ['--dance']]) {
    const child = spawn(process.execPath, [MAIN, ...args], { stdio: 'ignore' })
    assert.deepEqual(await once(child, 'exit'), [2, null])
  }
})

test('many revisions live side by side', async () => {
  for (let i = 0; i < 8; i++) await host.loaded(`r${i}`, `exports.handler = () => '${i}'\n`)
  for (let i = 0; i < 8; i++) assert.equal((await host.call(`r${i}`)).text, String(i))
})

test('stale control socket is replaced', async () => {
  const directory = fs.mkdtempSync(path.join(os.tmpdir(), 'fh-'))
  const control = path.join(directory, 'c.sock')
  const stale = spawn(process.execPath, ['-e', `require('net').createServer().listen(${JSON.stringify(control)})`])
  await eventually(() => fs.existsSync(control), 'stale socket')
  stale.kill('SIGKILL')
  await once(stale, 'exit')
  const child = spawn(process.execPath, [MAIN, '--control', control], { stdio: 'inherit' })
  const runner = await eventually(() => Runner.hello(control).catch(() => null), 'connection')
  runner.close()
  child.kill('SIGTERM')
  assert.deepEqual(await once(child, 'exit'), [0, null])
  fs.rmSync(directory, { recursive: true })
})

test('call past its deadline is not run', async () => {
  await host.loaded('a', "exports.handler = () => console.log('ran')\n")
  assert.equal((await host.call('a', { headers: { 'Fn-Deadline': deadline(-1) } })).status, 504)
  assert.equal((await host.call('a')).status, 200)
  await eventually(() => host.messages({ message: 'ran' }).length, 'the second call ran')
  assert.equal(host.messages({ message: 'ran' }).length, 1)
})

test('a second connection while the first is being served wins', async () => {
  const sockets = [net.connect(host.control), net.connect(host.control)]
  await sleep(20)
  host.runner = await Runner.hello(host.control)
  await host.loaded('a', ECHO)
  sockets.forEach((socket) => socket.destroy())
})
