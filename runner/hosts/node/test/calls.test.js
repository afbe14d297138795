'use strict'

const { test, before, beforeEach, after } = require('node:test')
const assert = require('node:assert/strict')
const http = require('node:http')
const { Host, alive, deadline, eventually, raw } = require('../testing/harness')

const HEADERS = {
  'Fn-Http-H-X-Name': 'ada', 'Content-Type': 'application/json', 'Fn-Operation-Id': 'getOrder',
  'Fn-Route-Template': '/orders/{id}', 'Fn-Path-Params': '{"id":"7 \\u00fc"}', 'Fn-Attempt': '2'
}
let host

before(async () => { host = await Host.start() })
beforeEach(() => host.reset())
after(() => host.remove())

test('event form is the proxy event', async () => {
  await host.loaded('a', `exports.handler = async (event, context) => ({
    ...event, request: context.awsRequestId, left: context.getRemainingTimeInMillis() > 1000 })\n`)
  const event = (await host.call('a', { body: '{"a":1}', headers: HEADERS })).json
  assert.deepEqual([event.body, event.isBase64Encoded], ['{"a":1}', false])
  assert.deepEqual([event.httpMethod, event.path, event.rawQueryString], ['POST', '/orders/7', 'a=1&a=2&b='])
  assert.deepEqual(event.queryStringParameters, { a: '2', b: '' })
  assert.deepEqual(event.multiValueQueryStringParameters, { a: ['1', '2'], b: [''] })
  assert.deepEqual([event.pathParameters, event.resource, event.operationId], [{ id: '7 ü' }, '/orders/{id}', 'getOrder'])
  assert.deepEqual(event.headers, { 'x-name': 'ada', 'content-type': 'application/json' })
  assert.deepEqual([event.request, event.left, event.requestContext.attempt], ['call-1', true, 2])
})

test('body that is no text comes as base64 and may leave as such', async () => {
  await host.loaded('a', 'exports.handler = (event) => ({ statusCode: 200, body: event.body, isBase64Encoded: event.isBase64Encoded })\n')
  const reply = await host.call('a', { body: Buffer.from([0xff, 0, 1]) })
  assert.deepEqual([[...reply.body], reply.header('Content-Type')], [[0xff, 0, 1], 'application/octet-stream'])
})

test('proxy result sets status, headers and cookies', async () => {
  await host.loaded('a', `exports.handler = (event) => ({ statusCode: '404', headers: { 'X-C': 'c', 'Content-Length': 99 },
    multiValueHeaders: { 'X-D': ['1', '2'] }, cookies: ['a=1', 'b=2'], body: 'none' })\n`)
  const reply = await host.call('a')
  assert.deepEqual([reply.header('Fn-Http-Status'), reply.header('Fn-Http-H-X-C'), reply.text], ['404', 'c', 'none'])
  assert.deepEqual([reply.all('Fn-Http-H-X-D'), reply.all('Fn-Http-H-Set-Cookie')], [['1', '2'], ['a=1', 'b=2']])
  assert.equal(reply.header('Content-Type'), 'text/plain; charset=utf-8')
})

test('queue event carries its exchange, key and headers', async () => {
  await host.loaded('a', 'exports.handler = ({ exchange, routingKey, body, httpMethod, headers }) => ({ exchange, routingKey, body, httpMethod, headers })\n')
  const reply = await host.call('a', {
    body: '12',
    headers: {
      'Fn-Intent': 'event', 'Fn-Exchange': 'payments', 'Fn-Routing-Key': 'paid.eu', 'Fn-Amqp-H-Tenant': 't',
      'Ce-Type': 'paid', 'Fn-Http-Method': null, 'Fn-Http-Request-Url': null
    }
  })
  assert.deepEqual(reply.json, { exchange: 'payments', routingKey: 'paid.eu', body: '12', httpMethod: null, headers: { tenant: 't', 'ce-type': 'paid' } })
})

test('direct invoke has plain headers', async () => {
  await host.loaded('a', 'exports.handler = (event) => event.headers\n')
  const got = (await host.call('a', { body: '12', headers: { 'Fn-Intent': 'invoke', 'X-Plain': 'p', 'Content-Type': 'text/css' } })).json
  assert.deepEqual([got['x-plain'], got['content-type']], ['p', 'text/css'])
  assert.ok(!Object.keys(got).some((name) => name.startsWith('fn-') || name === 'host'))
})

test('fdk form gets decoded input and its context', async () => {
  await host.loaded('a', `module.exports = (input, ctx) => ({ input, app: ctx.appName, fn: ctx.fnName, call: ctx.callID,
    key: ctx.config.K, type: ctx.contentType, method: ctx.httpGateway.method, url: ctx.httpGateway.requestURL,
    name: ctx.httpGateway.getHeader('x-name'), all: ctx.headers['Fn-Http-H-X-Name'], operation: ctx.operationID,
    params: ctx.pathParams, deadline: ctx.deadline.getTime() > Date.now(), memory: ctx.memory })\n`, { env: { K: 'V' }, memoryBytes: 128 << 20 })
  const reply = await host.call('a', { body: '{"a":1}', headers: HEADERS })
  assert.deepEqual(reply.json, {
    input: { a: 1 }, app: 'shop', fn: 'orders', call: 'call-1', key: 'V', type: 'application/json', method: 'POST',
    url: 'http://shop.example.com/orders/7?a=1&a=2&b=', name: 'ada', all: ['ada'], operation: 'getOrder',
    params: { id: '7 ü' }, deadline: true, memory: 128
  })
  assert.equal(reply.header('Content-Type'), 'application/json')
})

test('fdk.handle names the handler without the library in the bundle', async () => {
  await host.loaded('a', `const fdk = require('@fnproject/fdk')
    fdk.handle(async (input, ctx) => {
      ctx.httpGateway.statusCode = 418
      ctx.httpGateway.setResponseHeader('X-A', '1', '2')
      ctx.responseContentType = 'text/plain'
      return 'tea ' + input
    }, { inputMode: 'string' })\n`)
  const reply = await host.call('a', { body: 'green' })
  assert.deepEqual([reply.status, reply.header('Fn-Http-Status'), reply.text], [200, '418', 'tea green'])
  assert.deepEqual([reply.all('Fn-Http-H-X-A'), reply.header('Content-Type')], [['1', '2'], 'text/plain'])
})

test('fdk results: strings are JSON, bytes are bytes, streams are read', async () => {
  await host.loaded('a', `const fdk = require('@fnproject/fdk')
    fdk.handle((input) => ({ text: 'x', bytes: Buffer.from([255]), none: undefined,
      raw: fdk.rawResult('raw'), stream: fdk.streamResult(require('stream').Readable.from(['s', 't'])) })[input])\n`)
  const of = async (kind) => host.call('a', { body: kind })
  assert.deepEqual([(await of('text')).text, (await of('text')).header('Content-Type')], ['"x"', 'application/json'])
  assert.deepEqual([[...(await of('bytes')).body], (await of('none')).text], [[255], ''])
  assert.deepEqual([(await of('raw')).text, (await of('stream')).text], ['raw', 'st'])
})

for (const [source, body, type] of [
  ["'é'", 'é', 'text/plain; charset=utf-8'], ['[1, "é"]', '[1,"é"]', 'application/json'], ['7', '7', 'application/json'],
  ['({ statusCodes: 1 })', '{"statusCodes":1}', 'application/json'], ['true', 'true', 'application/json'],
  ['undefined', '', null], ['null', '', null], ["Buffer.from('b')", 'b', 'application/octet-stream']]) {
  test(`plain result is typed: ${source}`, async () => {
    await host.loaded('a', `exports.handler = async (event) => ${source}\n`)
    const reply = await host.call('a')
    assert.deepEqual([reply.status, reply.header('Fn-Http-Status'), reply.text, reply.header('Content-Type')], [200, '200', body, type])
  })
}

for (const source of ['() => {}', 'Symbol()', '10n', '(() => { const a = {}; a.a = a; return a })()', '{ statusCode: 99 }',
  "{ statusCode: 'soon' }", "{ statusCode: 200, headers: { X: 'a\\r\\nB: c' } }", "{ statusCode: 200, headers: { 'a b': 'c' } }",
  "{ statusCode: 200, headers: { X: 'a\\u0001' } }", '{ statusCode: null }', "{ statusCode: 200, body: '!', isBase64Encoded: true }",
  '{ statusCode: 200, get body () { throw new Error() } }']) {
  test(`garbage result is 502 and the worker lives: ${source}`, async () => {
    const pid = await host.loaded('a', `exports.handler = (event) => event.body === 'ok' ? 'ok' : (${source})\n`)
    const reply = await host.call('a')
    assert.equal(reply.status, 502)
    assert.equal(typeof reply.json.message, 'string')
    assert.equal((await host.call('a', { body: 'ok' })).text, 'ok')
    assert.ok(alive(pid))
  })
}

for (const [statement, name] of [["throw new TypeError('secret detail')", 'TypeError'], ['return event.no.such', 'TypeError'],
  ["return Promise.reject(new RangeError('x'))", 'RangeError'], ['return (function f () { return f() + 1 })()', 'RangeError'],
  ['throw null', 'object'], ["throw 'text'", 'string']]) {
  test(`exception is 502 with the trace in the log alone: ${statement}`, async () => {
    const pid = await host.loaded('a', `exports.handler = (event) => {\n  ${statement}\n}\n`)
    const reply = await host.call('a', { callId: 'c-9' })
    assert.deepEqual([reply.status, reply.json], [502, { message: `function failed: ${name}` }])
    const thrownHere = !statement.includes('throw null') && !statement.includes("'text'")
    await eventually(() => host.messages({ call: 'c-9', stream: 'stderr', level: 'error' })
      .some((m) => !thrownHere || m.includes('func.js')), 'trace')
    assert.ok(!host.messages().some((m) => /node:internal|handlers\.js|calls\.js/.test(m)))
    assert.ok(alive(pid))
  })
}

for (const [files, handler, expected] of [
  [{ 'func.js': "exports.handler = () => 'a'" }, null, 'a'],
  [{ 'func.js': "exports.run = () => 'a'" }, 'run', 'a'],
  [{ 'func.mjs': "export const handler = async () => 'a'" }, 'handler', 'a'],
  [{ 'func.js': "import fs from 'node:fs'\nexport function handler (event) { return typeof fs.readFileSync + event.path.length }" }, 'handler', 'function9'],
  [{ 'func.js': "export const handler = (event) => 'a'", 'package.json': '{"type":"module"}' }, 'handler', 'a'],
  [{ 'func.mjs': "export default (event) => 'a'" }, 'handler', 'a'],
  [{ 'func.cjs': "exports.handler = () => 'a'" }, 'handler', 'a'],
  [{ 'only.js': "exports.handler = () => 'a'" }, 'handler', 'a'],
  [{ 'order.js': "exports.handler = () => require('./price').price", 'price.js': "exports.price = 'a'" }, 'order.handler', 'a'],
  [{ 'order.js': "exports.one = () => 'a'", 'b.js': '' }, 'order:one', 'a'],
  [{ 'lib/order.js': "exports.one = () => 'a'" }, 'lib/order.one', 'a'],
  [{ 'lib/order.js': "exports.one = () => 'a'" }, 'lib.order.one', 'a'],
  [{ 'lib/index.js': "exports.one = () => 'a'" }, 'lib.one', 'a'],
  [{ 'main.js': "exports.handler = () => 'a'", 'other.js': '', 'package.json': '{"main":"main.js"}' }, 'handler', 'a'],
  [{ 'func.js': "exports.Orders = class { static one () { return 'a' } }" }, 'func.Orders.one', 'a'],
  [{ 'func.js': 'module.exports = (event, context) => event.path' }, 'handler', '/orders/7'],
  [{ 'func.js': "module.exports = function (input, ctx) { ctx.responseContentType = 'text/plain'; return ctx.callID }" }, 'handler', 'call-1'],
  [{ 'func.js': 'exports.handler = async (data) => data' }, 'handler', '""'],
  [{ 'func.js': 'exports.handler = ({ path }) => path' }, 'handler', '/orders/7'],
  [{ 'func.js': 'exports.handler = event => event.path' }, 'handler', '/orders/7'],
  [{ 'func.js': "exports.handler = (event, context, callback) => { setImmediate(() => callback(null, 'a')) }" }, 'handler', 'a'],
  [{ 'func.js': 'exports.handler = async (event, context, callback) => event.path' }, 'handler', '/orders/7'],
  [{ 'func.js': "exports.handler = require('tiny')", 'node_modules/tiny/index.js': "module.exports = (event) => 'a'" }, 'handler', 'a']]) {
  test(`handler form: ${handler} of ${JSON.stringify(files)}`, async () => {
    await host.loaded('a', files, { handler })
    assert.equal((await host.call('a')).text, expected)
  })
}

for (const [files, handler, reason] of [
  [{ 'func.js': 'exports.handler = 7' }, 'handler', /neither a function nor/], [{ 'func.js': '' }, 'func.nothing', /exports no "nothing"/],
  [{ 'a.js': '', 'b.js': '' }, 'handler', /no func\.js/], [{}, 'handler', /no func\.js/], [{ 'func.js': '' }, 'nowhere.f', /no module "nowhere"/],
  [{ 'func.js': '' }, 'func', /neither a function nor/]]) {
  test(`handler that names nothing fails the load: ${handler} of ${JSON.stringify(files)}`, async () => {
    const answer = await host.load('a', files, { handler })
    assert.equal(answer.event, 'failed')
    assert.match(answer.reason, reason)
  })
}

for (const [files, handler] of [
  [{ 'func.js': "exports.listOrders = (event) => 'list'\nexports.getOrder = (event) => 'get'" }, 'func'],
  [{ 'func.mjs': "export const listOrders = (event) => 'list'\nexport const getOrder = async (event) => 'get'" }, 'func'],
  [{ 'func.js': "exports.handler = { listOrders: (event) => 'list', getOrder: (event) => 'get' }" }, 'handler'],
  [{ 'func.js': "exports.Orders = class { constructor () { this.l = 'list' } listOrders (event) { return this.l } async getOrder () { return 'get' } }" }, 'func.Orders']]) {
  test(`operations are dispatched by operationId: ${JSON.stringify(files)}`, async () => {
    await host.loaded('a', files, { handler })
    assert.equal((await host.call('a', { headers: { 'Fn-Operation-Id': 'listOrders' } })).text, 'list')
    assert.equal((await host.call('a', { headers: { 'Fn-Operation-Id': 'getOrder' } })).text, 'get')
    for (const headers of [{ 'Fn-Operation-Id': 'constructor' }, { 'Fn-Operation-Id': '__proto__' }, {}]) {
      const reply = await host.call('a', { headers })
      assert.equal(reply.status, 502)
      assert.match(reply.json.message, /operation/)
    }
  })
}

test('calls of one connection share a warm process', async () => {
  await host.loaded('a', 'let n = 0\nexports.handler = () => String(++n)\n')
  const agent = new http.Agent({ keepAlive: true, maxSockets: 1 })
  for (const expected of ['1', '2', '3']) assert.equal((await host.call('a', { agent })).text, expected)
  assert.equal(Object.values(agent.freeSockets).flat().length, 1)
  agent.destroy()
})

test('concurrent calls run at once', async () => {
  await host.loaded('a', `let arrived = 0
    exports.handler = async () => { arrived++; while (arrived < 3) await new Promise((r) => setTimeout(r, 5)); return 'met' }\n`, { concurrency: 3 })
  const replies = await Promise.all([1, 2, 3].map(() => host.call('a')))
  assert.deepEqual(replies.map((reply) => reply.text), ['met', 'met', 'met'])
})

for (const concurrency of [1, 2]) {
  test(`no more calls run than concurrency allows: ${concurrency}`, async () => {
    await host.loaded('a', `let now = 0, most = 0
      exports.handler = async () => { most = Math.max(most, ++now); await new Promise((r) => setTimeout(r, 30)); now--; return String(most) }\n`, { concurrency })
    const replies = await Promise.all([1, 2, 3, 4, 5, 6].map(() => host.call('a')))
    assert.equal(replies.map((reply) => reply.text).sort().at(-1), String(concurrency))
  })
}

test('function that ends past its deadline is 504', async () => {
  await host.loaded('a', "exports.handler = async () => { await new Promise((r) => setTimeout(r, 400)); return 'late' }\n")
  assert.equal((await host.call('a', { headers: { 'Fn-Deadline': deadline(0.2) } })).status, 504)
})

test('caller that leaves does not hurt the worker', async () => {
  const pid = await host.loaded('a', "exports.handler = async () => { await new Promise((r) => setTimeout(r, 200)); return 'x' }\n")
  await assert.rejects(host.call('a', { timeoutMs: 50 }))
  assert.equal((await host.call('a')).text, 'x')
  assert.ok(alive(pid))
})

test('function that closes its descriptors hurts only itself', async () => {
  await host.loaded('b', "exports.handler = () => 'fine'\n")
  await host.loaded('a', `exports.handler = () => {
    const fs = require('fs'); for (let fd = 0; fd < 64; fd++) try { fs.closeSync(fd) } catch {}
    return 'x' }\n`)
  await host.call('a', { timeoutMs: 2000 }).catch(() => {})
  assert.equal((await host.call('b')).text, 'fine')
  host.runner.send({ op: 'kill', id: 900, revision: 'a' })
  assert.match((await host.runner.read()).event, /exited|killed/)
})

test('hanging function does not hold up others', async () => {
  await host.loaded('a', 'exports.handler = () => { for (;;) {} }\n')
  await host.loaded('b', "exports.handler = () => 'fine'\n")
  const reply = host.call('a').catch(() => 'broken')
  assert.equal((await host.call('b')).text, 'fine')
  assert.equal((await host.request('kill', 'a')).event, 'killed')
  assert.equal(await reply, 'broken')
})

test('big bodies go both ways', async () => {
  await host.loaded('a', 'exports.handler = (event) => Buffer.from(event.body, "base64")\n')
  const body = Buffer.alloc(10_000_000, Buffer.from([0xff, 0, 1, 2]))
  assert.ok((await host.call('a', { body })).body.equals(body))
})

test('chunked bodies are read', async () => {
  await host.loaded('a', 'exports.handler = (event) => event.body\n')
  const request = 'POST /call HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n'
  assert.match(await raw(host.socketOf('a'), request), /200 OK[\s\S]*abcde/)
})

for (const request of ['nonsense\r\n\r\n', 'POST /call HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n',
  'POST /call HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n', 'POST /call HTTP/1.1\r\nno colon\r\n\r\n',
  'POST /call HTTP/1.1\r\nHost: x\r\nX: ' + 'x'.repeat(200_000), 'GET /call HTTP/1.1\r\nHost: x\r\n\r\n',
  'POST /other HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n']) {
  test(`what is no call is refused and the worker lives: ${JSON.stringify(request.slice(0, 70))}`, async () => {
    await host.loaded('a', "exports.handler = () => 'ok'\n")
    assert.doesNotMatch(await raw(host.socketOf('a'), request), / 200 /)
    assert.equal((await host.call('a')).text, 'ok')
  })
}

/** Sends a call and hands out its response as it comes. */
function open (revision) {
  const headers = {
    'Fn-Call-Id': 'c-1', 'Fn-Deadline': deadline(30), 'Fn-Intent': 'httprequest', 'Fn-Http-Method': 'GET', 'Fn-Http-Request-Url': '/events'
  }
  return new Promise((resolve, reject) => {
    const request = http.request({ socketPath: host.socketOf(revision), path: '/call', method: 'POST', headers }, resolve)
    request.on('error', reject)
    request.end()
  })
}

// A piece is made once a file of its number is there: the test decides when.
const WAIT = `const fs = require('node:fs')
const wait = async (n) => { while (!fs.existsSync(process.env.GO + n)) await new Promise((resolve) => setTimeout(resolve, 1)) }
async function * events () { for (let n = 0; n < 3; n++) { await wait(n); yield \`data: ${'${n}'}\\n\\n\` } }
`
const STREAMS = {
  generator: "exports.handler = async function * (input, ctx) { ctx.responseContentType = 'text/event-stream'; yield * events() }\n",
  result: "exports.handler = () => ({ statusCode: 200, headers: { 'Content-Type': 'text/event-stream' }, body: events() })\n",
  readable: "exports.handler = (input, ctx) => { ctx.responseContentType = 'text/event-stream'; return require('node:stream').Readable.from(events()) }\n"
}

for (const [form, source] of Object.entries(STREAMS)) {
  test(`pieces leave as they are made: ${form}`, async () => {
    const go = require('node:path').join(host.directory, `go-${form}-`)
    const touch = (n) => require('node:fs').writeFileSync(go + n, '')
    await host.loaded('a', WAIT + source, { env: { GO: go } })
    touch(0)
    const response = await open('a')
    assert.deepEqual([response.statusCode, response.headers['content-type']], [200, 'text/event-stream'])
    assert.equal(response.headers['content-length'], undefined)
    let n = 0
    for await (const piece of response) {
      assert.equal(piece.toString(), `data: ${n}\n\n`, 'one comes before the next is made')
      touch(++n)
    }
    assert.equal(n, 3)
  })
}

test('a generator that throws breaks its answer off', async () => {
  await host.loaded('a', "exports.handler = async function * (event) { yield 'half'; throw new Error('secret') }\n")
  const response = await open('a')
  await assert.rejects(async () => { for await (const piece of response) assert.equal(piece.toString(), 'half') })
  await eventually(() => host.messages({ call: 'c-1', stream: 'stderr' }).some((line) => line.includes('secret')))
  await host.loaded('b', "exports.handler = async function * (event) { throw new Error('at once') }\n")
  assert.equal((await host.call('b')).status, 502)
})

test('a function is told when its caller leaves', async () => {
  await host.loaded('a', `exports.handler = async function * (event, context) {
    context.signal.addEventListener('abort', () => console.log('aborted'))
    try { while (true) { yield 'x'.repeat(65536) } } finally { console.log('left') }
  }\n`)
  const response = await open('a')
  response.once('data', () => response.destroy())
  await eventually(() => ['aborted', 'left'].every((word) => host.messages({ call: 'c-1' }).includes(word)))
})
