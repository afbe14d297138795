'use strict'

const { test, before, beforeEach, after } = require('node:test')
const assert = require('node:assert/strict')
const fs = require('node:fs')
const { Writable } = require('node:stream')
const { Host, alive, eventually, sleep } = require('../testing/harness')
const { Budget, LogSink, WorkerLog, CALL_MAX_BYTES, CUT, LINE_MAX_BYTES, SINK_MAX_BYTES, TAIL_MAX_BYTES } = require('../src/logs')
const { KEPT_MAX_BYTES } = require('../src/streams')

let host

before(async () => { host = await Host.start() })
beforeEach(() => host.reset())
after(() => host.remove())

test('lines carry call, app, fn, revision and stream', async () => {
  await host.loaded('a', `console.log('importing')
    exports.handler = () => { console.log('out'); console.error('err'); process.stdout.write('no newline'); process.stdout.write(Buffer.from(' and bytes')) }\n`)
  await host.call('a', { callId: 'c-1' })
  await host.call('a', { callId: 'c-2' })
  const lines = await eventually(() => host.logs().length >= 7 && host.logs(), 'log lines')
  assert.ok(lines.every((line) => line.app === 'shop' && line.fn === 'orders' && line.revision === 'a'))
  assert.deepEqual([lines[0].message, 'call' in lines[0]], ['importing', false])
  const first = lines.filter((line) => line.call === 'c-1').map((line) => [line.level, line.stream, line.message].join(' ')).sort()
  assert.deepEqual(first, ['error stderr err', 'info stdout no newline and bytes', 'info stdout out'])
  assert.match(lines[0].ts, /^\d{4}-.*T.*Z$/)
})

test('lines of concurrent calls are told apart', async () => {
  await host.loaded('a', `exports.handler = async (event) => {
    for (let i = 0; i < 50; i++) {
      process.stdout.write(event.body)
      await new Promise(setImmediate)
      console.log('-', event.body)
    } }\n`, { concurrency: 2 })
  await Promise.all(['x', 'y'].map((name) => host.call('a', { body: name, callId: name })))
  for (const name of ['x', 'y']) {
    await eventually(() => host.messages({ call: name }).length === 50, 'all lines')
    assert.deepEqual([...new Set(host.messages({ call: name }))], [`${name}- ${name}`])
  }
})

test('output after a call is not the call’s', async () => {
  await host.loaded('a', "exports.handler = () => { console.log('said'); setTimeout(() => console.log('late'), 30) }\n")
  await host.call('a', { callId: 'c-1' })
  await eventually(() => host.messages({ message: 'late' }).length, 'late line')
  assert.deepEqual([host.messages({ call: 'c-1' }), host.logs().find((line) => line.message === 'late').call], [['said'], undefined])
})

test('long line is cut and marked', async () => {
  await host.loaded('a', "exports.handler = () => { console.log('x'.repeat(100000)); console.log('after') }\n")
  await host.call('a', { callId: 'c-1' })
  await eventually(() => host.messages({ message: 'after', call: 'c-1' }).length, 'the line after')
  const long = host.messages({ call: 'c-1' }).filter((m) => m.startsWith('x'))
  assert.deepEqual([long.length, long[0].length, long[0].endsWith(CUT)], [1, LINE_MAX_BYTES + CUT.length, true])
})

test('flood is bounded for each call and blocks nobody', async () => {
  const pid = await host.loaded('a', "exports.handler = () => { for (let i = 0; i < 40; i++) process.stdout.write(('z'.repeat(99) + '\\n').repeat(1000)); return 'through' }\n")
  await host.loaded('b', "exports.handler = () => 'fine'\n")
  assert.equal((await host.call('a', { callId: 'c-1' })).text, 'through')
  assert.equal((await host.call('b')).text, 'fine')
  assert.equal((await host.call('a', { callId: 'c-2' })).text, 'through')
  assert.ok(alive(pid))
  await eventually(() => host.messages({ stream: 'host' }).filter((m) => m.includes('log limit')).length === 2, 'both notices')
  for (const call of ['c-1', 'c-2']) {
    const size = host.logs().filter((line) => line.call === call).reduce((sum, line) => sum + JSON.stringify(line).length, 0)
    assert.ok(size > CALL_MAX_BYTES / 2 && size < 3 * CALL_MAX_BYTES, String(size))
  }
})

test('endless flood without newlines leaves the host small', async () => {
  await host.loaded('a', "const fs = require('fs')\nexports.handler = () => { for (;;) try { fs.writeSync(1, 'x'.repeat(65536)) } catch {} }\n")
  await host.loaded('b', "exports.handler = () => 'fine'\n")
  const resident = () => Number(/VmRSS:\s+(\d+)/.exec(fs.readFileSync(`/proc/${host.process.pid}/status`, 'utf8'))[1])
  const before = resident()
  const flood = host.call('a').catch(() => 'broken')
  for (const end = Date.now() + 2000; Date.now() < end;) assert.equal((await host.call('b')).text, 'fine')
  assert.ok(resident() - before < 60_000, `${resident() - before} kB`)
  assert.equal((await host.request('kill', 'a')).event, 'killed')
  assert.equal(await flood, 'broken')
})

test('control characters and broken utf-8 stay one JSON line', async () => {
  await host.loaded('a', "exports.handler = () => { require('fs').writeSync(1, Buffer.from([0xff, 0x1b, 0x5b, 0x33, 13, 10])); console.log('a\\0b\\u2028c') }\n")
  await host.call('a', { callId: 'c-1' })
  await eventually(() => host.messages({ call: 'c-1' }).length, 'printed line')
  assert.deepEqual(host.messages({ call: 'c-1' }), ['a\\0b\u2028c'])
  assert.ok(host.messages().includes('\ufffd\u001b[3'))
})

const keep = { 'Fn-Log': 'keep' }
const kept = (reply) => Buffer.from(reply.header('Fn-Log') ?? '', 'base64').toString()

test('a call that asks for its log gets all it wrote', async () => {
  await host.loaded('a', `exports.handler = (event) => {
    console.log('out')
    console.error('err')
    process.stdout.write('no end')
    if (event.body) throw new TypeError('wrong')
  }\n`)
  assert.equal(kept(await host.call('a', { headers: keep })), 'out\nerr\nno end\n')
  const failed = await host.call('a', { body: 'x', headers: keep })
  assert.ok(failed.status === 502 && kept(failed).includes('TypeError: wrong'))
  assert.equal((await host.call('a')).header('Fn-Log'), null)
  assert.equal(kept(await host.call('a', { headers: keep })).match(/out/g).length, 1, 'another call’s is not there')
})

test('of a long log the end is kept', async () => {
  await host.loaded('a', "exports.handler = () => { for (let n = 0; n < 20000; n++) console.log(n, '\\u00e9') }\n")
  const log = kept(await host.call('a', { headers: keep }))
  assert.ok(log.endsWith('19998 \u00e9\n19999 \u00e9\n'))
  assert.ok(Buffer.byteLength(log) >= KEPT_MAX_BYTES - 1 && Buffer.byteLength(log) <= KEPT_MAX_BYTES)
})

test('logs of concurrent calls are each its own', async () => {
  await host.loaded('a', `exports.handler = async (event) => {
    for (let i = 0; i < 20; i++) {
      console.log(event.body)
      await new Promise(setImmediate)
    } }\n`, { concurrency: 4 })
  const names = ['w', 'x', 'y', 'z']
  const logs = await Promise.all(names.map(async (name) => kept(await host.call('a', { body: name, callId: name, headers: keep }))))
  assert.deepEqual(logs, names.map((name) => `${name}\n`.repeat(20)))
})

test('a function cannot answer a log of its own', async () => {
  await host.loaded('a', "exports.handler = () => { console.log('true'); return { statusCode: 200, headers: { 'Fn-Log': 'Zm9yZ2Vk' } } }\n")
  assert.deepEqual((await host.call('a', { headers: keep })).all('Fn-Log'), ['dHJ1ZQo='])
  assert.equal((await host.call('a')).header('Fn-Log'), null)
})

test('the end of a worker tells what its calls had written', async () => {
  await host.loaded('a', `exports.handler = (event) => {
    console.log('said by', event.body)
    if (event.body === 'second') process.exit(3)
  }\n`)
  await host.call('a', { body: 'first', callId: 'c-1' })
  await assert.rejects(host.call('a', { body: 'second', callId: 'c-2' }))
  const event = await host.runner.read()
  assert.deepEqual([event.event, event.code, event.calls], ['exited', 3, { 'c-2': 'said by second\n' }])
})

test('a kill tells what its calls had written', async () => {
  await host.loaded('a', "exports.handler = () => { console.log('begun'); return new Promise(() => {}) }\n")
  const hung = assert.rejects(host.call('a', { callId: 'c-1' }))
  await eventually(() => host.messages({ call: 'c-1', message: 'begun' }).length, 'the line')
  assert.deepEqual((await host.request('kill', 'a')).calls, { 'c-1': 'begun\n' })
  await hung
})

const listSink = () => ({ records: [], push (record) { this.records.push(record) } })

test('tail keeps the last kibibyte', () => {
  const log = new WorkerLog(listSink(), {})
  for (let i = 0; i < 1000; i++) log.feed('stdout', Buffer.from(`line ${i}\n`))
  assert.ok(log.tail().endsWith('line 998\nline 999'))
  assert.ok(Buffer.byteLength(log.tail()) > 900 && Buffer.byteLength(log.tail()) <= TAIL_MAX_BYTES)
})

test('what running calls wrote is bounded and goes with their end', () => {
  const log = new WorkerLog(listSink(), {})
  log.feed('stdout', Buffer.from(`\0a\n${'x'.repeat(10_000)}\n\0b\n${'y'.repeat(10_000)}\n`))
  assert.deepEqual(Object.keys(log.ofCalls()), ['b'])
  log.feed('stdout', Buffer.from('\0\n'))
  assert.deepEqual(log.ofCalls(), {})
})

test('marks split over chunks are understood', () => {
  const sink = listSink()
  const log = new WorkerLog(sink, {})
  for (const byte of Buffer.from('a\n\0call-7\nb\n\0\nc\npart\0call-8\nd\n')) log.feed('stdout', Buffer.from([byte]))
  assert.deepEqual(sink.records.map((r) => [r.message, r.call]),
    [['a', undefined], ['b', 'call-7'], ['c', undefined], ['part', undefined], ['d', 'call-8']])
})

test('forged marks with strange text are logged as text', () => {
  const sink = listSink()
  new WorkerLog(sink, {}).feed('stdout', Buffer.from('\0not a call id\n'))
  assert.deepEqual(sink.records.map((r) => [r.message, r.call]), [['not a call id', undefined]])
})

test('output of nobody may go on after its window', () => {
  let now = 0
  const budget = new Budget(() => now)
  assert.ok(budget.take('', CALL_MAX_BYTES) && budget.spent(''))
  now = 61_000
  assert.ok(!budget.spent('') && !budget.take('', 10))
})

test('slow reader of stdout is waited for within bounds and told what it missed', async () => {
  let release
  const written = []
  const stream = new Writable({ write (chunk, _encoding, done) { written.push(chunk.toString()); release ? done() : (release = done) } })
  const sink = new LogSink(stream)
  for (let i = 0; i < 3 * SINK_MAX_BYTES / 10_000; i++) sink.push({ message: 'x'.repeat(10_000) })
  assert.ok(stream.writableLength < SINK_MAX_BYTES + 20_000)
  release()
  await eventually(() => stream.writableLength === 0, 'drained')
  sink.push({ message: 'late' })
  await sleep(0)
  assert.match(written.at(-2), /dropped \d+ log lines/)
})
