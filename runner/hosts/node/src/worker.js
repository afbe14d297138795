'use strict'

// One worker: a process that has one revision loaded and answers its calls.
//
// Runs user code. It may be started before anyone knows what for; descriptor 3 then says what to load,
// and takes `ready` or `failed` back. Its end ends the process, so that no worker outlives its host.

const fs = require('node:fs')
const http = require('node:http')
const net = require('node:net')
const { pipeline } = require('node:stream/promises')
const { Readable } = require('node:stream')
const { Request, InvalidResult, answerFailure, withLog } = require('./calls')
const { loadHandler, HandlerError, UnknownOperation } = require('./handlers')
const { Pieces } = require('./pieces')
const shim = require('./fdk-shim')
const { Streams } = require('./streams')

const CHANNEL_FD = 3
const SOCKET_PATH_MAX_BYTES = 107 // sockaddr_un
const HEAD_MAX_BYTES = 128 * 1024 // twice what the gateway lets through, since headers get a prefix
const BODY_MAX_BYTES = 256 * 1024 * 1024 // the largest body anyone may put through memory here
const CONNECTIONS_EXTRA = 16 // beyond one for each call: a runner's probes and reconnects
const REASON_MAX_CHARS = 500 // fits a condition's message beside the log
const SPEC_MAX_BYTES = 2 * 1024 * 1024 // a control line, once decoded and encoded again
const OOM_SCORE = '500' // the kernel should choose a worker before the host

function main () {
  const channel = new net.Socket({ fd: CHANNEL_FD })
  let spec = ''
  let started = false
  channel.setEncoding('utf8')
  channel.on('error', end)
  channel.on('close', end)
  channel.on('data', (text) => {
    spec += text
    if (spec.length > SPEC_MAX_BYTES) end()
    if (started || !spec.endsWith('\n')) return
    started = true
    start(JSON.parse(spec), channel)
    spec = ''
  })
}

/** The host is gone: so is everything that this worker started. */
function end () {
  process.kill(-process.pid, 'SIGKILL')
}

async function start (spec, channel) {
  const streams = new Streams(spec.concurrency)
  try {
    enter(spec)
    const handler = await loadHandler(spec.handler, spec.code)
    const server = new Server(handler, streams, spec.concurrency)
    await server.listen(spec.socket)
    process.once('SIGTERM', () => server.stop())
  } catch (error) { // user code may throw anything
    process.stderr.write(traceOf(error) + '\n')
    streams.end(streams.owner())
    channel.write(JSON.stringify({ event: 'failed', reason: reasonOf(error) }) + '\n', () => process.exit(1))
    return
  }
  channel.write(JSON.stringify({ event: 'ready' }) + '\n')
  channel.unref()
}

function enter (spec) {
  Object.assign(process.env, spec.env)
  process.chdir(spec.code)
  process.argv.length = 1
  shim.install()
  try {
    fs.writeFileSync('/proc/self/oom_score_adj', OOM_SCORE)
  } catch {
    // not Linux, or /proc is read-only: a preference only
  }
}

function reasonOf (error) {
  const text = String(error?.message ?? error).split('\n')[0].trim()
  return (error instanceof HandlerError ? text : `${error?.name ?? 'Error'}: ${text}`).slice(0, REASON_MAX_CHARS)
}

/** The trace without the host's own frames and Node's, which say nothing to a function's author. */
function traceOf (error) {
  if (error instanceof HandlerError || error instanceof InvalidResult || error instanceof UnknownOperation) return error.message
  return String(error?.stack ?? error).split('\n').filter((line) => !isOurFrame(line)).join('\n')
}

function isOurFrame (line) {
  return (/^\s+at /.test(line) && line.includes('node:')) || (/^(\s+at |- )/.test(line) && line.includes(__dirname))
}

/** Answers calls, as many at once as the revision allows. */
class Server {
  constructor (handler, streams, concurrency) {
    this._handler = handler
    this._streams = streams
    this._free = concurrency
    this._waiting = []
    this._http = http.createServer({ maxHeaderSize: HEAD_MAX_BYTES, keepAliveTimeout: 0, requestTimeout: 0, headersTimeout: 0 },
      (request, response) => this._onRequest(request, response))
    this._http.maxConnections = concurrency + CONNECTIONS_EXTRA
    this._http.timeout = 0
  }

  async listen (path) {
    if (Buffer.byteLength(path) > SOCKET_PATH_MAX_BYTES) throw new HandlerError(`socket path is longer than ${SOCKET_PATH_MAX_BYTES} bytes`)
    if (fs.lstatSync(path, { throwIfNoEntry: false })?.isSocket()) fs.unlinkSync(path)
    await new Promise((resolve, reject) => {
      this._http.once('error', reject)
      this._http.listen({ path, readableAll: true, writableAll: true }, resolve)
    })
    fs.chmodSync(path, 0o666)
  }

  /** Calls that run may finish; the host ends the process when the grace is over. */
  stop () {
    this._http.close(() => {
      this._streams.end(this._streams.owner())
      process.exit(0)
    })
    this._http.closeIdleConnections()
  }

  _onRequest (request, response) {
    const chunks = []
    let size = 0
    request.on('data', (chunk) => {
      size += chunk.length
      if (size <= BODY_MAX_BYTES) chunks.push(chunk)
      else if (!response.headersSent) {
        send(response, answerFailure(413, 'body too large'))
        request.destroy()
      }
    })
    request.on('end', () => {
      if (size <= BODY_MAX_BYTES) this._onCall(request, Buffer.concat(chunks), response)
    })
    request.on('error', () => {}) // the caller left: `close` of the response says it
  }

  async _onCall (incoming, body, response) {
    if (incoming.method !== 'POST' || incoming.url !== '/call') return send(response, answerFailure(404, 'only POST /call is served'))
    await this._slot()
    const left = new AbortController()
    response.once('close', () => { if (!response.writableFinished) left.abort() })
    try {
      await this._answer(new Request(incoming.rawHeaders, body, left.signal), response)
    } finally {
      const next = this._waiting.shift()
      if (next) next()
      else this._free++
    }
  }

  async _slot () {
    if (this._free > 0) this._free--
    else await new Promise((resolve) => this._waiting.push(resolve)) // no more than there are connections
  }

  async _answer (request, response) {
    const deadline = request.deadlineMs()
    if (deadline !== null && deadline <= Date.now()) return send(response, answerFailure(504, 'deadline had passed before the call began'))
    // What a stream's maker writes while it is read belongs to the call as well.
    const keep = request.header('fn-log') === 'keep'
    const { result: answer, log } = await this._streams.run(request.header('fn-call-id') ?? '', keep, async () => {
      const answer = await this._run(request)
      if (deadline !== null && deadline <= Date.now()) return answerFailure(504, 'deadline passed while the function ran')
      if (!(answer.body instanceof Pieces)) return answer
      await stream(response, answer)
    })
    if (answer) send(response, withLog(answer, log))
  }

  async _run (request) {
    try {
      return await this._handler.find(request.header('fn-operation-id')).answer(request, process.env)
    } catch (error) { // whatever user code throws ends its call, never the worker
      process.stderr.write(traceOf(error) + '\n')
      const ours = error instanceof InvalidResult || error instanceof UnknownOperation
      return answerFailure(502, ours ? error.message.slice(0, REASON_MAX_CHARS) : `function failed: ${error?.name ?? typeof error}`)
    }
  }
}

function send (response, answer) {
  if (response.headersSent || response.destroyed) return
  response.sendDate = false
  response.writeHead(answer.status, [...answer.headers, ['Content-Length', String(answer.body.length)]].flat())
  response.end(answer.body)
}

/** Writes each piece as it comes, no faster than it is read; one that fails leaves the answer without its end. */
async function stream (response, answer) {
  if (response.destroyed) return answer.body[Symbol.asyncIterator]().return()
  response.sendDate = false
  response.writeHead(answer.status, answer.headers.flat())
  try {
    await pipeline(Readable.from(answer.body, { objectMode: true, highWaterMark: 1 }), response)
  } catch (error) { // whatever user code throws ends its call, never the worker
    if (error?.code !== 'ERR_STREAM_PREMATURE_CLOSE') process.stderr.write(traceOf(error) + '\n')
  }
}

main()
