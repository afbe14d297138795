'use strict'

// The control socket: one runner at a time, one JSON object a line (docs/hosts.md).
//
// Validates what a runner asks for, once, and hands it to the supervisor.

const fs = require('node:fs')
const net = require('node:net')

const WIRE = 1
const LINE_MAX_BYTES = 1024 * 1024
const UNSENT_MAX_BYTES = 4 * 1024 * 1024 // events that a runner does not read; beyond it is taken for dead
const GRACE_MAX_MS = 600_000 // no drain is longer than the longest function timeout
const START_TIMEOUT_MAX_MS = 600_000
const CONCURRENCY_MAX = 1024
const REVISION = /^[A-Za-z0-9][A-Za-z0-9._-]{0,252}$/

/** A line that is JSON but no request; its message is the reason sent back. */
class InvalidRequest extends Error {}

/** Serves the control socket; the newest connection is the runner. */
class Control {
  constructor (supervisor) {
    this._supervisor = supervisor
    this._runner = null
    this._turn = Promise.resolve()
    this._server = net.createServer((socket) => this._onConnect(socket))
  }

  async listen (path, mode) {
    if (fs.lstatSync(path, { throwIfNoEntry: false })?.isSocket()) fs.unlinkSync(path)
    const umask = process.umask(0o177)
    try {
      await new Promise((resolve, reject) => {
        this._server.once('error', reject)
        this._server.listen(path, resolve)
      })
    } finally {
      process.umask(umask)
    }
    fs.chmodSync(path, mode)
  }

  close () {
    this._server.close()
    this._runner?.destroy()
  }

  _onConnect (socket) {
    this._runner?.destroy() // the old runner is dead or has been started again
    this._runner = socket
    socket.on('error', () => {})
    socket.on('close', () => {
      if (this._runner !== socket) return
      this._runner = null
      this._supervisor.emit = () => {}
    })
    this._turn = this._turn.then(async () => {
      await this._supervisor.endAll(0)
      if (this._runner !== socket) return // a newer one came while the workers of the old one ended
      this._supervisor.emit = (event) => send(socket, event)
      this._read(socket)
    })
  }

  /** Until the connection ends; a line that is too long or no JSON object ends it. */
  _read (socket) {
    const decoder = new TextDecoder('utf-8', { fatal: true })
    let chunks = []
    let size = 0
    socket.on('data', (chunk) => {
      let start = 0
      for (let end; (end = chunk.indexOf(10, start)) >= 0; start = end + 1) {
        chunks.push(chunk.subarray(start, end))
        if (size + end - start > LINE_MAX_BYTES || !this._line(socket, decoder, Buffer.concat(chunks))) return socket.destroy()
        chunks = []
        size = 0
      }
      chunks.push(chunk.subarray(start))
      size += chunk.length - start
      if (size > LINE_MAX_BYTES) socket.destroy()
    })
  }

  _line (socket, decoder, line) {
    let request
    try {
      request = JSON.parse(decoder.decode(line))
    } catch {
      return false
    }
    if (request === null || typeof request !== 'object' || Array.isArray(request)) return false
    try {
      this._obey(request)
    } catch (error) {
      if (!(error instanceof InvalidRequest)) throw error
      send(socket, { event: 'error', id: request.id ?? null, reason: error.message })
    }
    return true
  }

  _obey (request) {
    switch (request.op) {
      case 'hello':
        if (request.wire !== WIRE) throw new InvalidRequest(`wire version is not ${WIRE}`)
        return this._supervisor.emit({ event: 'hello', wire: WIRE, runtime: 'node', version: process.versions.node })
      case 'load':
        return this._supervisor.load(parseLoad(request))
      case 'unload':
        return this._supervisor.unload(idOf(request), revisionOf(request), number(request, 'graceMs', 0, GRACE_MAX_MS))
      case 'kill':
        return this._supervisor.kill(idOf(request), revisionOf(request))
      default:
        throw new InvalidRequest('unknown op')
    }
  }
}

function send (socket, event) {
  if (socket.destroyed) return
  if (socket.writableLength > UNSENT_MAX_BYTES) return socket.destroy()
  socket.write(JSON.stringify(event) + '\n')
}

function parseLoad (request) {
  const handler = request.handler ?? null
  if (handler !== null && typeof handler !== 'string') throw new InvalidRequest('handler is not a string')
  const env = request.env ?? {}
  if (typeof env !== 'object' || Array.isArray(env) || !Object.entries(env).every(isVariable)) {
    throw new InvalidRequest('env is not an object of variables')
  }
  return {
    id: idOf(request),
    revision: revisionOf(request),
    code: text(request, 'code'),
    handler,
    env,
    concurrency: number({ concurrency: 1, ...request }, 'concurrency', 1, CONCURRENCY_MAX),
    memoryBytes: (request.memoryBytes ?? null) === null ? null : number(request, 'memoryBytes', 1, 2 ** 50),
    startTimeoutMs: number({ startTimeoutMs: 5000, ...request }, 'startTimeoutMs', 1, START_TIMEOUT_MAX_MS),
    socket: text(request, 'socket'),
    app: text(request, 'app'),
    fn: text(request, 'fn')
  }
}

function isVariable ([name, value]) {
  return typeof value === 'string' && name !== '' && !name.includes('=') && !(name + value).includes('\0')
}

function idOf (request) {
  return number(request, 'id', 0, Number.MAX_SAFE_INTEGER)
}

function revisionOf (request) {
  const revision = text(request, 'revision')
  if (!REVISION.test(revision)) throw new InvalidRequest('revision is not a name')
  return revision
}

function text (request, name) {
  const value = request[name]
  if (typeof value !== 'string' || value === '' || value.includes('\0')) throw new InvalidRequest(`${name} is not a string`)
  return value
}

function number (request, name, low, high) {
  const value = request[name]
  if (!Number.isInteger(value) || value < low || value > high) {
    throw new InvalidRequest(`${name} is not a number between ${low} and ${high}`)
  }
  return value
}

module.exports = { Control }
