'use strict'

// Finds the function that a handler string names and learns, once, how it wants to be called.
//
// Imports user code; never opens a socket.

const fs = require('node:fs')
const path = require('node:path')
const { pathToFileURL } = require('node:url')
const { Context, buildEvent, answerEvent, answerFdk } = require('./calls')
const { begun, isSource } = require('./pieces')
const shim = require('./fdk-shim')

const DEFAULT_HANDLER = 'handler'
const EXTENSIONS = ['.js', '.cjs', '.mjs']
const DEFAULT_MODULES = ['func', 'index']
const SOURCE_MAX_CHARS = 4096 // a parameter list ends long before
const FDK_FIRST = new Set(['input', 'data', 'body'])
const EVENT_FIRST = new Set(['event', 'evt', 'e', '_event', '_', '{'])

/** The handler string names nothing that can be called. */
class HandlerError extends Error {}

/** The function has several operations, and none of the name that the call carries. */
class UnknownOperation extends Error {}

/** One callable and its form, decided by its signature. */
class Entry {
  constructor (fn, self, { isModule = false, inputMode = null } = {}) {
    this._call = (...args) => fn.apply(self, args)
    const names = parameterNames(fn)
    this._inputMode = inputMode ?? (isFdk(names, isModule) ? 'json' : null)
    this._takesCallback = this._inputMode === null && fn.length >= 3
  }

  /** Runs the function and turns what it returns into an answer. */
  async answer (request, env) {
    if (this._inputMode === null) return this._answerEvent(request, env)
    const input = decodeInput(request.body, this._inputMode)
    const context = new Context(request, env, input)
    const result = await this._call(input, context)
    return answerFdk(context, await ready(result instanceof shim.FnResult ? await rawBody(context, result) : result))
  }

  async _answerEvent (request, env) {
    const event = buildEvent(request)
    const context = new Context(request, env, event.body)
    if (!this._takesCallback) return answerEvent(context, await ready(await this._call(event, context)))
    const result = await new Promise((resolve, reject) => {
      const returned = this._call(event, context, (error, value) => error ? reject(error) : resolve(value))
      if (typeof returned?.then === 'function') returned.then(resolve, reject)
    })
    return answerEvent(context, await ready(result))
  }
}

/** What a function returned, with a generator or a stream in it ready to be read. */
async function ready (result) {
  if (isSource(result)) return begun(result)
  if (result !== null && typeof result === 'object' && isSource(result.body)) return { ...result, body: await begun(result.body) }
  return result
}

/** What a revision runs: one entry, or several chosen by operationId. */
class Handler {
  constructor (target, options = {}) {
    this._single = null
    this._operations = new Map()
    if (typeof target === 'function' && !isClass(target)) {
      this._single = new Entry(target, undefined, options)
      return
    }
    const holder = typeof target === 'function' ? new target() : target // eslint-disable-line new-cap
    for (const [name, fn] of operationsOf(holder)) this._operations.set(name, new Entry(fn, holder))
    if (this._operations.size === 0) throw new HandlerError(`handler is ${describe(target)}, neither a function nor a set of operations`)
  }

  find (operationId) {
    if (this._single) return this._single
    if (operationId === null && this._operations.size === 1) return this._operations.values().next().value
    const entry = this._operations.get(operationId ?? '')
    if (entry) return entry
    throw new UnknownOperation(operationId === null
      ? 'function has several operations and the call names none'
      : `function has no operation ${JSON.stringify(operationId)}`)
  }
}

/** Imports what `spec` names from `codeDir`; user code's own errors pass through. */
async function loadHandler (spec, codeDir) {
  const { file, attribute, optional } = resolve(spec || DEFAULT_HANDLER, codeDir)
  const exported = await importFile(file)
  const registered = shim.takeRegistered()
  if (registered) return new Handler(registered.handler, { inputMode: registered.inputMode })
  if (attribute === '') return new Handler(unwrapDefault(exported), { isModule: true })
  const found = attributeOf(exported, attribute) ?? attributeOf(exported?.default, attribute)
  if (found !== undefined) return new Handler(found)
  const whole = unwrapDefault(exported)
  if (optional && typeof whole === 'function') return new Handler(whole, { isModule: true })
  throw new HandlerError(`${path.basename(file)} exports no ${JSON.stringify(attribute)}`)
}

/** The file and what to take from it; `optional` where the file's whole export may be the handler. */
function resolve (spec, codeDir) {
  if (spec.includes(':')) {
    const [module, attribute] = spec.split(/:(.*)/s)
    return { file: fileOf(codeDir, module) ?? missing(module), attribute, optional: false }
  }
  const parts = spec.split('.')
  for (let count = parts.length; count > 0 && parts.length > 1; count--) {
    const module = parts.slice(0, count).join('.')
    const file = fileOf(codeDir, module) ?? fileOf(codeDir, module.replaceAll('.', '/'))
    if (file) return { file, attribute: parts.slice(count).join('.'), optional: false }
  }
  if (parts.length > 1) return missing(parts.slice(0, -1).join('.'))
  const byName = fileOf(codeDir, spec)
  const file = defaultFile(codeDir)
  if (byName && (!file || byName === file || spec !== DEFAULT_HANDLER)) return { file: byName, attribute: '', optional: true }
  if (!file) throw new HandlerError(`no func.js, no index.js, no single module and no module ${JSON.stringify(spec)} in the bundle`)
  return { file, attribute: spec, optional: spec === DEFAULT_HANDLER }
}

function missing (module) {
  throw new HandlerError(`no module ${JSON.stringify(module)} in the bundle`)
}

function fileOf (codeDir, module) {
  const base = path.join(codeDir, module)
  const candidates = [base, ...EXTENSIONS.map((e) => base + e), ...EXTENSIONS.map((e) => path.join(base, 'index' + e))]
  return candidates.find((file) => EXTENSIONS.includes(path.extname(file)) && fs.statSync(file, { throwIfNoEntry: false })?.isFile())
}

function defaultFile (codeDir) {
  const main = mainOf(codeDir)
  for (const module of ['func', ...(main ? [main] : []), ...DEFAULT_MODULES]) {
    const file = fileOf(codeDir, module)
    if (file) return file
  }
  const files = fs.readdirSync(codeDir).filter((name) => EXTENSIONS.includes(path.extname(name)))
  return files.length === 1 ? path.join(codeDir, files[0]) : null
}

function mainOf (codeDir) {
  try {
    const main = JSON.parse(fs.readFileSync(path.join(codeDir, 'package.json'), 'utf8')).main
    return typeof main === 'string' ? main : null
  } catch {
    return null // no package.json, or one that Node itself will complain about
  }
}

async function importFile (file) {
  try {
    return require(file)
  } catch (error) {
    if (!isModuleSyntax(error, file)) throw error
    return import(pathToFileURL(file).href)
  }
}

function isModuleSyntax (error, file) {
  if (error?.code === 'ERR_REQUIRE_ESM' || error?.code === 'ERR_REQUIRE_ASYNC_MODULE') return true
  // A .js file in a bundle without package.json may be an ES module all the same.
  return error instanceof SyntaxError && path.extname(file) === '.js' &&
    /import statement outside a module|Unexpected token 'export'|import\.meta/.test(error.message)
}

/** What an ES module exports by default, where that is all it exports. */
function unwrapDefault (exported) {
  if (exported === null || typeof exported !== 'object' || exported.default === undefined) return exported
  return Object.keys(exported).every((name) => name === 'default' || name === '__esModule') ? exported.default : exported
}

function attributeOf (target, dotted) {
  return dotted.split('.').reduce((value, name) => value?.[name], target)
}

function operationsOf (holder) {
  if (holder === null || typeof holder !== 'object') return []
  const names = new Set(Object.keys(holder))
  const prototype = Object.getPrototypeOf(holder)
  if (prototype && prototype !== Object.prototype && prototype !== Array.prototype) {
    for (const name of Object.getOwnPropertyNames(prototype)) names.add(name)
  }
  names.delete('constructor')
  return [...names].filter((name) => !name.startsWith('_') && typeof holder[name] === 'function').map((name) => [name, holder[name]])
}

function isClass (fn) {
  return /^class[\s{]/.test(Function.prototype.toString.call(fn))
}

function describe (target) {
  return target === null ? 'null' : Array.isArray(target) ? 'an array' : `a value of type ${typeof target}`
}

/** Fn's form is `(input, ctx)`; Lambda's is `(event, context)`. A module that is itself a function leans to Fn's. */
function isFdk (names, isModule) {
  if (names[1] === 'ctx' || FDK_FIRST.has(names[0])) return true
  return isModule && names.length > 0 && !EVENT_FIRST.has(names[0]) && names[1] !== 'context'
}

/** The first names of the parameter list; `{` or `[` stands for a pattern. */
function parameterNames (fn) {
  const source = Function.prototype.toString.call(fn).slice(0, SOURCE_MAX_CHARS).replace(/\/\*[\s\S]*?\*\/|\/\/.*$/gm, '')
  const bare = /^(?:async\s+)?([A-Za-z_$][\w$]*)\s*=>/.exec(source)
  if (bare) return [bare[1]]
  const names = []
  let depth = 0
  let current = ''
  for (const char of source.slice(source.indexOf('(') + 1)) {
    if (depth === 0 && (char === ',' || char === ')')) {
      names.push(current.trim())
      current = ''
      if (char === ')') break
      continue
    }
    current += char
    if ('([{'.includes(char)) depth++
    if (')]}'.includes(char)) depth--
  }
  return names.filter(Boolean).map((name) => /^[{[]/.test(name) ? name[0] : name.split(/[\s=]/)[0])
}

function decodeInput (body, mode) {
  if (mode === 'buffer') return body
  const text = body.toString()
  if (mode === 'string') return text
  try {
    return JSON.parse(text)
  } catch {
    return text // as Fn's library does: what is no JSON comes as text
  }
}

async function rawBody (context, result) {
  const body = await result.read()
  context.responseContentType ??= 'application/octet-stream'
  return body
}

module.exports = { loadHandler, HandlerError, UnknownOperation }
