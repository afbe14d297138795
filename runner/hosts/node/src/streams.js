'use strict'

// The worker's stdout and stderr: text in, whole lines out that say which call wrote them.
//
// A line that starts with NUL is a mark: it names the call to which the following lines belong,
// or nobody when it is empty. The host reads the marks; see logs.js.
// Never performs I/O but on the stream it wraps.

const { AsyncLocalStorage } = require('node:async_hooks')
const { StringDecoder } = require('node:string_decoder')

// A line without an end is written out at this size, so that a partial line cannot grow without bound.
const PARTIAL_MAX_CHARS = 16 * 1024
// What is kept of a call's output for whoever asked for it: its end, as the call ledger keeps it.
const KEPT_MAX_BYTES = 16 * 1024

/** Both streams of a worker, and which call writes: by context, else the only one that can be running. */
class Streams {
  constructor (concurrency) {
    this._storage = concurrency > 1 ? new AsyncLocalStorage() : null
    this._running = null
    this._nobody = { id: '', partial: {} }
    this._outputs = [new Output(process.stdout, 'out', this), new Output(process.stderr, 'err', this)]
  }

  owner () {
    return (this._storage ? this._storage.getStore() : this._running) ?? this._nobody
  }

  /**
   * Runs one call; everything it writes meanwhile is marked with its id, and the end of it is kept where asked for:
   * `log` of what this resolves to.
   */
  async run (callId, keep, work) {
    const call = { id: callId, partial: {}, kept: keep ? '' : null }
    this._running = call
    let result
    try {
      result = await (this._storage ? this._storage.run(call, work) : work())
    } finally {
      this.end(call)
      this._running = null
    }
    return { result, log: kept(call) }
  }

  end (call) {
    for (const output of this._outputs) output.end(call)
  }
}

class Output {
  constructor (stream, name, streams) {
    this._write = stream.write.bind(stream)
    this._name = name
    this._marked = ''
    this._decoder = new StringDecoder('utf8')
    stream.write = (chunk, encoding, callback) => {
      const done = typeof encoding === 'function' ? encoding : callback
      this._add(streams.owner(), this._text(chunk, encoding))
      if (typeof done === 'function') process.nextTick(done)
      return true
    }
  }

  /** Writes the call's unfinished line and takes its mark back. */
  end (call) {
    const rest = call.partial[this._name]
    call.partial[this._name] = ''
    if (rest) {
      this._emit(call.id, rest + '\n')
      keep(call, rest + '\n')
    }
    if (this._marked !== '' && this._marked === call.id) this._emit('', '')
  }

  _text (chunk, encoding) {
    if (typeof chunk !== 'string') return this._decoder.write(Buffer.from(chunk.buffer, chunk.byteOffset, chunk.byteLength))
    return typeof encoding === 'string' && !/^utf-?8$/i.test(encoding) ? Buffer.from(chunk, encoding).toString() : chunk
  }

  _add (call, text) {
    let pending = (call.partial[this._name] ?? '') + text.replaceAll('\0', '\\0')
    let end = pending.lastIndexOf('\n') + 1
    if (pending.length - end > PARTIAL_MAX_CHARS) {
      pending += '\n'
      end = pending.length
    }
    call.partial[this._name] = pending.slice(end)
    if (end > 0) {
      this._emit(call.id, pending.slice(0, end))
      keep(call, pending.slice(0, end))
    }
  }

  _emit (callId, lines) {
    const mark = callId === this._marked ? '' : `\0${callId}\n`
    this._marked = callId
    // A pipe's writes are synchronous in Node, so a flood waits for the host and never piles up here.
    if (mark || lines) this._write(mark + lines)
  }
}

function keep (call, lines) {
  if (typeof call.kept !== 'string') return
  call.kept += lines
  if (call.kept.length > 2 * KEPT_MAX_BYTES) call.kept = call.kept.slice(-KEPT_MAX_BYTES)
}

/** The end of what a call wrote, in whole characters; null where nobody asked. */
function kept (call) {
  if (call.kept === null) return null
  const bytes = Buffer.from(call.kept)
  let start = Math.max(0, bytes.length - KEPT_MAX_BYTES)
  while (start < bytes.length && (bytes[start] & 0xc0) === 0x80) start++
  return bytes.subarray(start)
}

module.exports = { Streams, KEPT_MAX_BYTES }
