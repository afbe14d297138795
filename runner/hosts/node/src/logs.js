'use strict'

// What workers write, as one JSON object a line on the host's own stdout.
//
// Always drains, and bounds what it keeps: a line, a call's log, what waits for a slow reader of stdout.
// Never blocks the host's loop.

const fs = require('node:fs')
const net = require('node:net')

const LINE_MAX_BYTES = 16 * 1024
const CALL_MAX_BYTES = 1024 * 1024 // Fn's own limit for the log of a call
const LINE_OVERHEAD_BYTES = 128 // what a line's JSON costs beside its text: floods of short lines count too
const NOBODY_WINDOW_MS = 60_000 // output that belongs to no call may fill the same bound once in this time
const CALLS_MAX = 4096 // calls whose bytes are counted at once; the oldest is forgotten first
const TAIL_MAX_BYTES = 1024
const CALLS_TAIL_MAX_CHARS = 16 * 1024 // of the calls that run, together: what each had written when its worker ended
const SINK_MAX_BYTES = 8 * 1024 * 1024 // waits for whoever reads the host's stdout, then is dropped
const CUT = ' [line cut]'
const CALL_ID = /^[A-Za-z0-9._:-]{0,128}$/
const EMPTY = Buffer.alloc(0)
const NUL = 0
const NEWLINE = 10

/** Writes lines without ever waiting for their reader. */
class LogSink {
  constructor (stream) {
    this._stream = stream
    this._dropped = 0
    this._gone = false
    stream.on('error', () => { this._gone = true }) // nobody reads logs any more; the host itself goes on
  }

  push (record) {
    if (this._gone) return
    if (this._stream.writableLength > SINK_MAX_BYTES) {
      this._dropped++
      return
    }
    if (this._dropped > 0) {
      const message = `dropped ${this._dropped} log lines: the reader of this host's output is too slow`
      this._dropped = 0
      this._stream.write(JSON.stringify({ ts: new Date().toISOString(), level: 'warn', stream: 'host', message }) + '\n')
    }
    this._stream.write(JSON.stringify(record) + '\n')
  }

  /** Resolves when the last lines have left, or when they have had their time. */
  close (timeoutMs) {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, timeoutMs)
      this._stream.write('', () => {
        clearTimeout(timer)
        resolve()
      })
    })
  }
}

/** Standard output as a stream that never blocks, which `process.stdout` does on a pipe. */
function openStdout () {
  const stat = fs.fstatSync(1)
  return stat.isFIFO() || stat.isSocket()
    ? new net.Socket({ fd: 1, readable: false, writable: true })
    : fs.createWriteStream('', { fd: 1, autoClose: false })
}

/** How much each call of one worker may still log. */
class Budget {
  constructor (now = Date.now) {
    this._now = now
    this._used = new Map()
    this._nobodySince = now()
  }

  spent (call) {
    if (call === '' && this._now() - this._nobodySince >= NOBODY_WINDOW_MS) this._used.delete('')
    return (this._used.get(call) ?? 0) >= CALL_MAX_BYTES
  }

  /** Counts a line; true when it is the one that spends the budget. */
  take (call, size) {
    if (call === '' && !this._used.has('')) this._nobodySince = this._now()
    const used = (this._used.get(call) ?? 0) + size
    this._used.delete(call)
    this._used.set(call, used)
    if (this._used.size > CALLS_MAX) this._used.delete(this._used.keys().next().value)
    return used >= CALL_MAX_BYTES
  }
}

/** Both streams of one worker: marks in, records out, the last lines kept. */
class WorkerLog {
  constructor (sink, labels) {
    this._sink = sink
    this._labels = labels
    this._budget = new Budget()
    this._tail = []
    this._tailBytes = 0
    this._open = []
    this._openChars = 0
    this._streams = { stdout: newStream(), stderr: newStream() }
  }

  feed (name, chunk) {
    const stream = this._streams[name]
    if (this._budget.spent(stream.call) && !chunk.includes(NUL)) {
      stream.partial = EMPTY
      return
    }
    let start = 0
    for (let end; (end = chunk.indexOf(NEWLINE, start)) >= 0; start = end + 1) {
      const piece = chunk.subarray(start, end)
      this._line(name, stream, stream.partial.length ? Buffer.concat([stream.partial, piece]) : piece)
      stream.partial = EMPTY
    }
    // A copy, so that a short rest does not keep the whole chunk alive.
    stream.partial = Buffer.concat([stream.partial, chunk.subarray(start)])
    if (stream.partial.length > LINE_MAX_BYTES) this._cutPartial(name, stream)
  }

  finish () {
    for (const [name, stream] of Object.entries(this._streams)) {
      if (stream.partial.length) this._line(name, stream, stream.partial)
      stream.partial = EMPTY
    }
  }

  tail () {
    const bytes = Buffer.from(this._tail.join('\n'))
    return bytes.subarray(Math.max(0, bytes.length - TAIL_MAX_BYTES)).toString().replace(/^\uFFFD+/, '')
  }

  /** The last lines of the calls that have not ended, by call. */
  ofCalls () {
    const lines = new Map()
    for (const { call, text } of this._open) lines.set(call, (lines.get(call) ?? '') + text + '\n')
    return Object.fromEntries(lines)
  }

  /** The rest of an endless line is dropped as it comes. */
  _cutPartial (name, stream) {
    const endsWithMark = stream.partial.at(-1) === NUL
    if (!stream.cut) this._line(name, stream, stream.partial)
    stream.cut = true
    stream.partial = endsWithMark ? Buffer.from([NUL]) : EMPTY
  }

  _line (name, stream, line) {
    const nul = line.indexOf(NUL)
    const text = nul < 0 ? line : line.subarray(0, nul)
    const wasCut = stream.cut
    stream.cut = false
    if (text.length && !wasCut) this._record(name, stream.call, text)
    if (nul < 0) return
    const mark = line.subarray(nul + 1)
    const call = mark.toString()
    if (CALL_ID.test(call)) {
      if (call === '') this._ended(stream.call)
      stream.call = call
    } else this._record(name, stream.call, mark)
  }

  _record (name, call, raw) {
    if (this._budget.spent(call)) return
    let text = raw.subarray(0, LINE_MAX_BYTES).toString().replace(/\r+$/, '')
    if (raw.length > LINE_MAX_BYTES) text += CUT
    if (text === '') return
    this._push(name === 'stderr' ? 'error' : 'info', name, call, text)
    this._keep(call, text)
    if (this._budget.take(call, raw.length + LINE_OVERHEAD_BYTES)) {
      this._push('warn', 'host', call, `log limit of ${CALL_MAX_BYTES} bytes reached, the rest is dropped`)
    }
  }

  _push (level, stream, call, message) {
    const record = { ts: new Date().toISOString(), level, ...this._labels }
    if (call !== '') record.call = call
    this._sink.push({ ...record, stream, message })
  }

  _ended (call) {
    this._open = this._open.filter((line) => line.call !== call)
    this._openChars = this._open.reduce((chars, { text }) => chars + text.length + 1, 0)
  }

  _keep (call, text) {
    if (call !== '') {
      this._open.push({ call, text })
      this._openChars += text.length + 1
      while (this._openChars > CALLS_TAIL_MAX_CHARS && this._open.length > 1) this._openChars -= this._open.shift().text.length + 1
    }
    this._tail.push(text.slice(-TAIL_MAX_BYTES))
    this._tailBytes += this._tail.at(-1).length + 1
    while (this._tailBytes - this._tail[0].length - 1 >= TAIL_MAX_BYTES) this._tailBytes -= this._tail.shift().length + 1
  }
}

function newStream () {
  return { call: '', partial: EMPTY, cut: false }
}

module.exports = { LogSink, WorkerLog, Budget, openStdout, LINE_MAX_BYTES, CALL_MAX_BYTES, SINK_MAX_BYTES, TAIL_MAX_BYTES, CUT }
