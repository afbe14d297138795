'use strict'

// A body that is written as it is made: what a handler's generator or stream gives, as bytes.
// Knows no socket.

/** Whether a value is read piece by piece: a generator, an async one, a readable stream. */
function isSource (value) {
  if (value === null || typeof value !== 'object') return false
  return typeof value[Symbol.asyncIterator] === 'function' ||
    (typeof value[Symbol.iterator] === 'function' && typeof value.next === 'function')
}

/** Takes the first piece at once, so that a function may set status and headers until then. */
async function begun (source) {
  const iterator = source[Symbol.asyncIterator]?.() ?? source[Symbol.iterator]()
  return new Pieces(iterator, await iterator.next())
}

class Pieces {
  constructor (iterator, first) {
    this._iterator = iterator
    this._next = first
  }

  async * [Symbol.asyncIterator] () {
    try {
      while (!this._next.done) {
        const piece = toBytes(await this._next.value)
        if (piece.length > 0) yield piece
        this._next = await this._iterator.next()
      }
    } finally {
      await this._iterator.return?.() // nobody reads any more: the function's own `finally` runs
    }
  }
}

function toBytes (piece) {
  if (typeof piece === 'string') return Buffer.from(piece)
  if (piece instanceof Uint8Array) return piece
  throw new TypeError(`a stream gives text or bytes, not ${piece === null ? 'null' : `a value of type ${typeof piece}`}`)
}

module.exports = { Pieces, begun, isSource }
