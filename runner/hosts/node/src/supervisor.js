'use strict'

// Starts, watches and ends workers: one for each loaded revision, and a warm spare for the next.
//
// Owns processes, pipes and timers; never runs user code and never decides what to load.

const { spawn } = require('node:child_process')
const fs = require('node:fs')
const path = require('node:path')
const { WorkerLog } = require('./logs')

const WORKERS_MAX = 1024 // far above what a runner pod's memory holds
const STATUS_MAX_CHARS = 16 * 1024 // a worker says `ready` or a reason of at most 500 characters
const FAILED_EXIT_MS = 200 // a worker that said `failed` ends by itself; timers of user code may keep it from that
const DRAIN_MS = 100 // after a worker's end, for what is left in its pipes, should a stray hold them open
const CLEAN_PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'
const PASSED_ON = ['PATH', 'HOME', 'LANG', 'TZ', 'TMPDIR'] // of the host's own environment; nothing else is
const MIB = 1024 * 1024
// Of a memory limit, what V8's old space may take: the rest is code, stacks, buffers and young space.
const HEAP_SHARE = 0.75
const HEAP_MIN_MIB = 16
const OPTIONAL_FLAGS = ['--experimental-detect-module', '--disable-warning=ExperimentalWarning']

/** All workers of this host. Events go to `emit`, which may change with the runner. */
class Supervisor {
  constructor (sink) {
    this.emit = () => {}
    this._sink = sink
    this._workers = new Map()
    this._spare = null
    this._spareHeap = null
    this._closed = false
    this._onAllGone = []
    this._renewSpare(null)
  }

  load (load) {
    if (this._workers.has(load.revision)) return this._failed(load, 'revision is already loaded', '')
    if (this._workers.size >= WORKERS_MAX) return this._failed(load, `host runs ${WORKERS_MAX} workers already`, '')
    try {
      fs.mkdirSync(path.dirname(load.socket), { recursive: true })
    } catch (error) {
      return this._failed(load, `cannot make the socket's directory: ${error.code}`, '')
    }
    const heap = heapMib(load.memoryBytes)
    const log = new WorkerLog(this._sink, { app: load.app, fn: load.fn, revision: load.revision })
    const worker = { load, log, state: 'loading', reason: null, said: '', endedBy: [], timers: [], child: this._take(heap) }
    this._workers.set(load.revision, worker)
    this._attach(worker)
    worker.child.stdio[3].write(JSON.stringify(specOf(load)) + '\n')
    worker.timers.push(setTimeout(() => this._onStartTimeout(worker), load.startTimeoutMs))
  }

  unload (id, revision, graceMs) {
    const worker = this._workers.get(revision)
    if (!worker) return this.emit({ event: 'unloaded', id, revision })
    this._willEnd(worker, 'unloaded', id, 'unloaded while it was loading')
    signal(worker, 'SIGTERM')
    worker.timers.push(setTimeout(() => this._kill(worker), graceMs))
  }

  kill (id, revision) {
    const worker = this._workers.get(revision)
    if (!worker) return this.emit({ event: 'killed', id, revision })
    this._willEnd(worker, 'killed', id, 'killed while it was loading')
    this._kill(worker)
  }

  /** Ends every worker: SIGTERM and grace when there is one, else SIGKILL. Tells nobody. */
  async endAll (graceMs) {
    this.emit = () => {}
    for (const worker of this._workers.values()) {
      worker.reason ??= 'host ended it'
      if (graceMs > 0) {
        signal(worker, 'SIGTERM')
        worker.timers.push(setTimeout(() => this._kill(worker), graceMs))
      } else this._kill(worker)
    }
    if (this._workers.size > 0) await new Promise((resolve) => this._onAllGone.push(resolve))
  }

  close () {
    this._closed = true
    this._spare?.kill('SIGKILL')
  }

  _willEnd (worker, event, id, reason) {
    worker.endedBy.push({ event, id })
    worker.reason ??= reason
    if (worker.state === 'ready') worker.state = 'ending'
  }

  _take (heap) {
    const child = this._spare !== null && this._spareHeap === heap ? this._spare : start(heap)
    if (child === this._spare) this._spare = null
    return child
  }

  /** Makes the next load of the same size find a process that has started already. */
  _renewSpare (heap) {
    if (this._closed || (this._spare !== null && this._spareHeap === heap)) return
    this._spare?.kill('SIGKILL')
    const child = start(heap)
    const forget = () => { if (this._spare === child) this._spare = null }
    child.on('exit', forget)
    child.on('error', forget)
    this._spare = child
    this._spareHeap = heap
  }

  _attach (worker) {
    const { child, log } = worker
    const channel = child.stdio[3]
    child.stdout.on('data', (chunk) => log.feed('stdout', chunk))
    child.stderr.on('data', (chunk) => log.feed('stderr', chunk))
    channel.setEncoding('utf8')
    channel.on('data', (text) => this._onSaid(worker, text))
    channel.on('error', () => {}) // its exit is on its way
    child.on('error', (error) => {
      worker.reason ??= `cannot start a process: ${error.code}`
      if (child.pid === undefined) this._onGone(worker, null, null)
    })
    child.on('exit', (code, name) => this._onExit(worker, code, name))
    if (child.exitCode !== null || child.signalCode !== null) this._onExit(worker, child.exitCode, child.signalCode)
  }

  _onSaid (worker, text) {
    worker.said += text
    if (worker.state !== 'loading' || worker.told) return
    if (worker.said.length > STATUS_MAX_CHARS) return this._fail(worker, 'worker sent nonsense')
    if (!worker.said.includes('\n')) return
    worker.told = true
    let message
    try {
      message = JSON.parse(worker.said.slice(0, worker.said.indexOf('\n')))
    } catch {
      return this._fail(worker, 'worker sent nonsense')
    }
    if (message?.event === 'ready') this._onReady(worker)
    else this._fail(worker, String(message?.reason))
  }

  _onReady (worker) {
    if (worker.reason !== null) return // it is to end already
    worker.state = 'ready'
    clearTimers(worker)
    const { id, revision } = worker.load
    this.emit({ event: 'loaded', id, revision, pid: worker.child.pid })
    this._renewSpare(heapMib(worker.load.memoryBytes))
  }

  _fail (worker, reason) {
    worker.reason ??= reason
    worker.timers.push(setTimeout(() => this._kill(worker), FAILED_EXIT_MS))
  }

  _onStartTimeout (worker) {
    worker.reason ??= `loading took longer than ${worker.load.startTimeoutMs} ms`
    this._kill(worker)
  }

  _kill (worker) {
    signal(worker, 'SIGKILL')
  }

  _onExit (worker, code, name) {
    clearTimers(worker)
    killGroup(worker.child.pid) // what the worker forked dies with it
    const { child } = worker
    const timer = setTimeout(() => {
      for (const stream of child.stdio) stream?.destroy()
    }, DRAIN_MS)
    child.on('close', () => {
      clearTimeout(timer)
      this._onGone(worker, code, name)
    })
  }

  _onGone (worker, code, name) {
    clearTimers(worker)
    const { load } = worker
    if (this._workers.get(load.revision) !== worker) return
    this._workers.delete(load.revision)
    worker.log.finish()
    try {
      fs.unlinkSync(load.socket)
    } catch {
      // it never came to listen, or removed its socket itself
    }
    this._report(worker, code, name)
    if (this._workers.size === 0) this._onAllGone.splice(0).forEach((resolve) => resolve())
  }

  _report (worker, code, name) {
    const { load, log } = worker
    const ofCalls = log.ofCalls()
    const calls = Object.keys(ofCalls).length > 0 ? { calls: ofCalls } : {}
    if (worker.state === 'loading') {
      this._failed(load, worker.reason ?? `worker ended while loading: ${name ?? `exit code ${code}`}`, log.tail())
    } else if (worker.state === 'ready') {
      this.emit({ event: 'exited', revision: load.revision, code, signal: name, log: log.tail(), ...calls })
    }
    for (const { event, id } of worker.endedBy) this.emit({ event, id, revision: load.revision, ...calls })
  }

  _failed (load, reason, log) {
    this.emit({ event: 'failed', id: load.id, revision: load.revision, reason, log })
  }
}

function start (heap) {
  const flags = OPTIONAL_FLAGS.filter((flag) => process.allowedNodeEnvironmentFlags.has(flag.split('=')[0]))
  if (heap !== null) flags.push(`--max-old-space-size=${heap}`)
  const child = spawn(process.execPath, [...flags, path.join(__dirname, 'worker.js')], {
    env: cleanEnvironment(process.env), stdio: ['ignore', 'pipe', 'pipe', 'pipe'], detached: true
  })
  child.stdio[3]?.on('error', () => {}) // it ended before it was given anything
  return child
}

/** Signals a worker that has not been reaped, so that its id is certainly still its own. */
function signal (worker, name) {
  const { child } = worker
  if (child.pid === undefined || child.exitCode !== null || child.signalCode !== null) return
  if (name === 'SIGKILL') killGroup(child.pid)
  child.kill(name)
}

function killGroup (pid) {
  if (pid === undefined) return
  try {
    process.kill(-pid, 'SIGKILL')
  } catch {
    // the group has no members any more
  }
}

function clearTimers (worker) {
  worker.timers.splice(0).forEach(clearTimeout)
}

function heapMib (memoryBytes) {
  return memoryBytes === null ? null : Math.max(HEAP_MIN_MIB, Math.floor(memoryBytes / MIB * HEAP_SHARE))
}

function cleanEnvironment (own) {
  const env = { PATH: CLEAN_PATH, HOME: '/tmp', LANG: 'C.UTF-8', TZ: 'UTC' }
  for (const name of PASSED_ON) if (own[name]) env[name] = own[name]
  return env
}

function specOf (load) {
  const { code, handler, concurrency, socket, app, fn } = load
  const env = {
    FN_APP_ID: app,
    FN_FN_ID: fn,
    ...load.env,
    FN_APP_NAME: app,
    FN_FN_NAME: fn,
    FN_FORMAT: 'http-stream',
    FN_LISTENER: `unix:${socket}`,
    FN_TYPE: 'sync'
  }
  if (load.memoryBytes !== null) env.FN_MEMORY = String(Math.max(1, Math.floor(load.memoryBytes / MIB)))
  return { code, handler, env, concurrency, socket }
}

module.exports = { Supervisor }
