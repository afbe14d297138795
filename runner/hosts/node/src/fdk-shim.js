'use strict'

// Stands in for `@fnproject/fdk`, so that a function written for it runs here unchanged:
// `fdk.handle(…)` names the handler instead of opening a socket, since the host has one already.
// It wins over a copy in the bundle, which would open a second server.

const Module = require('node:module')

const NAME = '@fnproject/fdk'
const STREAM_MAX_BYTES = 256 * 1024 * 1024 // as for any body that passes through memory here

let registered = null

/** A result that says itself how it becomes bytes. */
class FnResult {
  constructor (read) {
    this.read = read
  }
}

const fdk = {
  handle (handler, options) {
    if (typeof handler !== 'function') throw new TypeError('fdk.handle takes a function')
    registered = { handler, inputMode: options?.inputMode ?? 'json' }
  },
  rawResult: (data) => new FnResult(async () => Buffer.from(data)),
  streamResult: (stream) => new FnResult(async () => {
    const chunks = []
    let size = 0
    for await (const chunk of stream) {
      chunks.push(Buffer.from(chunk))
      size += chunk.length
      if (size > STREAM_MAX_BYTES) throw new RangeError('stream result is too large')
    }
    return Buffer.concat(chunks)
  })
}

function install () {
  const load = Module._load
  Module._load = function (request, ...rest) {
    return request === NAME ? fdk : load.call(this, request, ...rest)
  }
}

/** What `fdk.handle` was given while the bundle loaded, or null. */
function takeRegistered () {
  const taken = registered
  registered = null
  return taken
}

module.exports = { install, takeRegistered, FnResult }
