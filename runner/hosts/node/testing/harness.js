'use strict'

// Runs the real host and speaks to it as a runner does.

const { spawn } = require('node:child_process')
const assert = require('node:assert/strict')
const fs = require('node:fs')
const http = require('node:http')
const net = require('node:net')
const os = require('node:os')
const path = require('node:path')
const { once } = require('node:events')
const { setTimeout: sleep } = require('node:timers/promises')

const MAIN = path.join(__dirname, '..', 'src', 'main.js')
const WAIT_MS = 15_000
const HEAD_MAX_BYTES = 64 * 1024 // an answer with its log has more than Node's own bound

async function eventually (condition, what, timeoutMs = WAIT_MS) {
  const end = Date.now() + timeoutMs
  while (Date.now() < end) {
    const value = await condition()
    if (value) return value
    await sleep(5)
  }
  assert.fail(`not within ${timeoutMs} ms: ${what}`)
}

/** A runner's control connection. */
class Runner {
  static async connect (file) {
    const runner = new Runner()
    runner.socket = net.connect(file)
    await once(runner.socket, 'connect')
    runner._lines = []
    runner._readers = []
    runner._closed = false
    let rest = ''
    runner.socket.setEncoding('utf8')
    runner.socket.on('data', (text) => {
      const lines = (rest + text).split('\n')
      rest = lines.pop()
      for (const line of lines) runner._deliver(JSON.parse(line))
    })
    runner.socket.on('error', () => {})
    runner.socket.on('close', () => {
      runner._closed = true
      runner._readers.splice(0).forEach((resolve) => resolve(null))
    })
    return runner
  }

  static async hello (file) {
    const runner = await Runner.connect(file)
    runner.send({ op: 'hello', wire: 1 })
    runner.version = await runner.read()
    return runner
  }

  _deliver (event) {
    const reader = this._readers.shift()
    if (reader) reader(event)
    else this._lines.push(event)
  }

  send (message) {
    this.socket.write(JSON.stringify(message) + '\n')
  }

  /** The next event, or null when the connection is closed. */
  async read () {
    if (this._lines.length) return this._lines.shift()
    if (this._closed) return null
    return Promise.race([
      new Promise((resolve) => this._readers.push(resolve)),
      sleep(WAIT_MS, undefined, { ref: false }).then(() => assert.fail('no event from the host'))
    ])
  }

  close () {
    this.socket.destroy()
  }
}

/** The host as a process, with a runner connected and its log lines at hand. */
class Host {
  static async start ({ args = [], env = {} } = {}) {
    const host = new Host()
    host.directory = fs.mkdtempSync(path.join(os.tmpdir(), 'fh-'))
    host.control = path.join(host.directory, 'c.sock')
    host.logPath = path.join(host.directory, 'host.log')
    host._nextId = 0
    const log = fs.openSync(host.logPath, 'a')
    host.process = spawn(process.execPath, [MAIN, '--control', host.control, '--exit-with-stdin', ...args], {
      // With its stdin as a pipe the host ends when the tests do, however they end.
      env: { ...process.env, NODE_TEST_CONTEXT: '', ...env }, stdio: ['pipe', log, 'inherit']
    })
    fs.closeSync(log)
    host.exited = once(host.process, 'exit')
    await eventually(() => fs.existsSync(host.control), 'control socket')
    host.runner = await eventually(() => Runner.hello(host.control).catch(() => null), 'control connection')
    return host
  }

  /** A new runner for the next test: the host ends what the last one loaded. */
  async reset () {
    this.runner.close()
    this.runner = await Runner.hello(this.control)
    for (const name of fs.readdirSync(this.directory)) {
      if (name.startsWith('code')) fs.rmSync(path.join(this.directory, name), { recursive: true })
    }
    fs.truncateSync(this.logPath)
  }

  async request (op, revision, fields = {}) {
    const id = ++this._nextId
    this.runner.send({ op, id, revision, ...fields })
    const answer = await this.runner.read()
    assert.equal(answer?.id, id, JSON.stringify(answer))
    return answer
  }

  socketOf (revision) {
    return path.join(this.directory, `${revision}.sock`)
  }

  write (revision, files) {
    const code = path.join(this.directory, `code-${revision}`)
    fs.mkdirSync(code, { recursive: true })
    for (const [name, text] of Object.entries(typeof files === 'string' ? { 'func.js': files } : files)) {
      fs.mkdirSync(path.dirname(path.join(code, name)), { recursive: true })
      fs.writeFileSync(path.join(code, name), text)
    }
    return code
  }

  loadRequest (revision, files, fields = {}) {
    return {
      code: this.write(revision, files), handler: 'handler', env: {}, concurrency: 1, memoryBytes: null,
      startTimeoutMs: 10_000, socket: this.socketOf(revision), app: 'shop', fn: 'orders', ...fields
    }
  }

  load (revision, files, fields = {}) {
    return this.request('load', revision, this.loadRequest(revision, files, fields))
  }

  async loaded (revision, files, fields = {}) {
    const answer = await this.load(revision, files, fields)
    assert.equal(answer.event, 'loaded', JSON.stringify(answer))
    return answer.pid
  }

  call (revision, { body = '', headers = {}, callId = 'call-1', agent, timeoutMs = WAIT_MS } = {}) {
    const all = {
      'Fn-Call-Id': callId, 'Fn-Deadline': deadline(30), 'Fn-Intent': 'httprequest', 'Fn-Http-Method': 'POST',
      'Fn-Http-Request-Url': 'http://shop.example.com/orders/7?a=1&a=2&b=', ...headers
    }
    for (const [name, value] of Object.entries(all)) if (value === null) delete all[name]
    return new Promise((resolve, reject) => {
      const request = http.request({ socketPath: this.socketOf(revision), path: '/call', method: 'POST', headers: all, agent, timeout: timeoutMs, maxHeaderSize: HEAD_MAX_BYTES })
      request.on('timeout', () => request.destroy(new Error('timeout')))
      request.on('error', reject)
      request.on('response', async (response) => {
        try {
          resolve(await replyOf(response))
        } catch (error) {
          reject(error)
        }
      })
      request.end(body)
    })
  }

  logs () {
    const text = fs.readFileSync(this.logPath, 'utf8')
    return text.slice(0, text.lastIndexOf('\n') + 1).split('\n').filter(Boolean).map((line) => JSON.parse(line))
  }

  messages (fields = {}) {
    return this.logs().filter((line) => Object.entries(fields).every(([k, v]) => line[k] === v)).map((line) => line.message)
  }

  async stop () {
    this.runner.close()
    this.process.kill('SIGTERM')
    const [code] = await this.exited
    return code
  }

  async remove () {
    if (this.process.exitCode === null && this.process.signalCode === null) assert.equal(await this.stop(), 0)
    fs.rmSync(this.directory, { recursive: true, force: true })
  }
}

async function replyOf (response) {
  const chunks = []
  for await (const chunk of response) chunks.push(chunk)
  const body = Buffer.concat(chunks)
  const all = (name) => response.rawHeaders.filter((_, i) => i % 2 === 1 && response.rawHeaders[i - 1].toLowerCase() === name.toLowerCase())
  return {
    status: response.statusCode,
    body,
    text: body.toString(),
    all,
    header: (name) => all(name)[0] ?? null,
    get json () { return JSON.parse(body) }
  }
}

function deadline (seconds) {
  return new Date(Date.now() + seconds * 1000).toISOString()
}

function alive (pid) {
  try {
    return fs.readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1][0] !== 'Z'
  } catch {
    return false
  }
}

/** Sends bytes as they are and gives what comes back until the worker closes. */
function raw (file, data) {
  return new Promise((resolve) => {
    const socket = net.connect(file)
    let out = ''
    socket.setTimeout(5000, () => socket.destroy())
    socket.on('data', (chunk) => { out += chunk })
    socket.on('error', () => {})
    socket.on('close', () => resolve(out))
    socket.end(data)
  })
}

module.exports = { Host, Runner, WAIT_MS, MAIN, alive, deadline, eventually, raw, sleep }
