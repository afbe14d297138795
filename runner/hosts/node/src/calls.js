'use strict'

// What a handler is given (context, event, input) and how what it returns becomes an answer.
//
// Pure but for the clock that remaining time needs; docs/hosts.md states every form.

const { isUtf8 } = require('node:buffer')
const { Pieces, isSource } = require('./pieces')

const NOT_ASCII = /[\x80-\xff]/
const HTTP_PREFIX = 'fn-http-h-'
const AMQP_PREFIX = 'fn-amqp-h-'
const CLOUD_EVENT_PREFIX = 'ce-'
const INTENT_HTTP = 'httprequest'
const INTENT_EVENT = 'event'
const UNPREFIXED = new Set(['fn-fdk-version', 'fn-fdk-runtime'])
// The answer's framing is the platform's; a function's own word on it would contradict the bytes sent.
const FRAMING = new Set(['content-length', 'transfer-encoding', 'connection', 'keep-alive', 'upgrade', 'trailer', 'te'])
const TOKEN = /^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$/
const CONTROL = /[\x00-\x08\x0a-\x1f\x7f]/ // eslint-disable-line no-control-regex
const BODYLESS = new Set([204, 304])

/** The function returned what cannot be an HTTP answer. */
class InvalidResult extends Error {}

/** A request to the worker: names of headers in lower case, each with all its values. */
class Request {
  constructor (rawHeaders, body, signal = null) {
    this.signal = signal
    this.headers = Object.create(null)
    for (let i = 0; i < rawHeaders.length; i += 2) {
      const name = rawHeaders[i].toLowerCase()
      const value = rawHeaders[i + 1]
      // Node gives bytes as Latin-1; headers that are not ASCII are UTF-8 here.
      const text = NOT_ASCII.test(value) ? Buffer.from(value, 'latin1').toString() : value
      const values = (this.headers[name] ??= [])
      values.push(text)
    }
    this.body = body
  }

  header (name) {
    return this.headers[name]?.[0] ?? null
  }

  deadlineMs () {
    const time = Date.parse(this.header('fn-deadline') ?? '')
    return Number.isNaN(time) ? null : time
  }
}

/** The call, in the words of Fn's library for Node and of AWS Lambda. */
class Context {
  constructor (request, env, body) {
    this._request = request
    this._env = env
    this._body = body
    this._responseHeaders = {}
    this.callbackWaitsForEmptyEventLoop = false
  }

  get deadline () {
    const time = this._request.deadlineMs()
    return time === null ? null : new Date(time)
  }

  /** An AbortSignal: aborted when the caller has left before the answer was whole. */
  get signal () { return this._request.signal }
  get callID () { return this.getHeader('Fn-Call-Id') }
  get appName () { return this._env.FN_APP_NAME }
  get appID () { return this._env.FN_APP_ID }
  get fnName () { return this._env.FN_FN_NAME }
  get fnID () { return this._env.FN_FN_ID }
  get memory () { return parseInt(this._env.FN_MEMORY, 10) }
  get config () { return { ...this._env } }
  get body () { return this._body }
  get contentType () { return this.getHeader('Content-Type') }
  get headers () { return canonicalHeaders(this._request.headers) }
  get responseHeaders () { return { ...this._responseHeaders } }
  get httpGateway () { return new HttpGateway(this) }
  get operationID () { return this._request.header('fn-operation-id') }
  get routeTemplate () { return this._request.header('fn-route-template') }
  get pathParams () { return pathParams(this._request) }
  get attempt () { return attemptOf(this._request) }
  get awsRequestId () { return this.callID }
  get functionName () { return this.fnName }
  get memoryLimitInMB () { return this._env.FN_MEMORY }
  set responseContentType (type) { this.setResponseHeader('Content-Type', type) }
  get responseContentType () { return this.getResponseHeader('Content-Type') }

  getConfig (key) { return this._env[key] ?? null }
  getHeader (name) { return this._request.header(name.toLowerCase()) }
  getAllHeaderValues (name) { return [...(this._request.headers[name.toLowerCase()] ?? [])] }
  getResponseHeader (name) { return this._responseHeaders[canonical(name)]?.[0] ?? null }
  setResponseHeader (name, ...values) { this._responseHeaders[canonical(name)] = values.flat() }

  addResponseHeader (name, ...values) {
    const all = (this._responseHeaders[canonical(name)] ??= [])
    all.push(...values.flat())
  }

  getRemainingTimeInMillis () {
    const time = this._request.deadlineMs()
    return time === null ? 0 : Math.max(0, time - Date.now())
  }
}

/** The HTTP side of a call, as `ctx.httpGateway` of Fn's library gives it. */
class HttpGateway {
  constructor (context) {
    this._context = context
    this._headers = httpHeaders(context._request)
  }

  get requestURL () { return this._context.getHeader('Fn-Http-Request-Url') }
  get method () { return this._context.getHeader('Fn-Http-Method') }
  get headers () { return canonicalHeaders(this._headers) }
  set statusCode (status) { this._context.setResponseHeader('Fn-Http-Status', status) }

  getHeader (name) { return this._headers[name.toLowerCase()]?.[0] ?? null }
  getAllHeaderValues (name) { return [...(this._headers[name.toLowerCase()] ?? [])] }

  setResponseHeader (name, ...values) {
    if (name.toLowerCase() === 'content-type') this._context.responseContentType = values[0]
    else this._context.setResponseHeader('Fn-Http-H-' + name, ...values)
  }

  addResponseHeader (name, ...values) { this._context.addResponseHeader('Fn-Http-H-' + name, ...values) }
}

/** The event: Lambda's proxy event for HTTP calls, the same keys where they apply for others. */
function buildEvent (request) {
  const isEvent = request.header('fn-intent') === INTENT_EVENT
  const [path, query] = pathAndQuery(request.header('fn-http-request-url') ?? '')
  const headers = httpHeaders(request)
  if (request.headers['content-type']) headers['content-type'] ??= request.headers['content-type']
  const multi = {}
  for (const [name, value] of new URLSearchParams(query)) (multi[name] ??= []).push(value)
  return {
    httpMethod: isEvent ? null : request.header('fn-http-method'),
    path,
    rawQueryString: query,
    queryStringParameters: Object.fromEntries(Object.entries(multi).map(([name, values]) => [name, values.at(-1)])),
    multiValueQueryStringParameters: multi,
    pathParameters: pathParams(request),
    resource: request.header('fn-route-template'),
    operationId: request.header('fn-operation-id'),
    headers: Object.fromEntries(Object.entries(headers).map(([name, values]) => [name, values.join(', ')])),
    multiValueHeaders: { ...headers },
    ...textOrBase64(request.body),
    exchange: request.header('fn-exchange'),
    routingKey: request.header('fn-routing-key'),
    requestContext: {
      requestId: request.header('fn-call-id'), deadline: request.header('fn-deadline'), attempt: attemptOf(request)
    }
  }
}

/** The caller's headers: prefixed on HTTP calls, those of the message on events, plain on direct invokes. */
function httpHeaders (request) {
  const intent = request.header('fn-intent')
  const prefix = { [INTENT_HTTP]: HTTP_PREFIX, [INTENT_EVENT]: AMQP_PREFIX }[intent]
  const found = Object.create(null)
  for (const [name, values] of Object.entries(request.headers)) {
    if (prefix) {
      if (name.startsWith(prefix)) found[name.slice(prefix.length)] = [...values]
    } else if (!name.startsWith('fn-') && !FRAMING.has(name) && name !== 'host') found[name] = [...values]
  }
  if (intent === INTENT_EVENT) {
    for (const name in request.headers) if (name.startsWith(CLOUD_EVENT_PREFIX)) found[name] = [...request.headers[name]]
  }
  return found
}

/** An answer from what an event handler returned: a proxy result, or a plain value. */
function answerEvent (context, result) {
  if (result === null || typeof result !== 'object' || !('statusCode' in result)) {
    const [body, type] = encode(result)
    return answer(200, context._responseHeaders, body, type)
  }
  const headers = { ...result.headers, ...result.multiValueHeaders }
  if (result.cookies) headers['set-cookie'] = [...result.cookies]
  let [body, type] = encode(result.body)
  if (result.isBase64Encoded && !isSource(body)) [body, type] = [fromBase64(body), 'application/octet-stream']
  return answer(result.statusCode, headers, body, type)
}

/** An answer from what an FDK handler returned: JSON, unless it set another content type. */
function answerFdk (context, result) {
  const headers = context._responseHeaders
  const status = headers['Fn-Http-Status']?.[0] ?? 200
  const type = context.responseContentType
  if (result === undefined || result === null) return answer(status, headers, Buffer.alloc(0), type)
  if (result instanceof Uint8Array) return answer(status, headers, Buffer.from(result), 'application/octet-stream')
  if (result instanceof Pieces) return answer(status, headers, result, type ?? 'application/octet-stream')
  if (type === null || /^application\/json|\+json/.test(type)) {
    return answer(status, headers, json(result), 'application/json')
  }
  return answer(status, headers, typeof result === 'string' ? Buffer.from(result) : json(result), type)
}

/** The answer with what its call wrote, where that was asked for. No header of a function's own has this name. */
function withLog (answer, log) {
  return log?.length ? { ...answer, headers: [...answer.headers, ['Fn-Log', log.toString('base64')]] } : answer
}

/** 502 or 504 with a short reason; a stack trace never leaves through here. */
function answerFailure (status, message) {
  return { status, headers: [['Content-Type', 'application/json']], body: Buffer.from(JSON.stringify({ message })) }
}

function answer (status, headers, body, contentType) {
  const code = typeof status === 'string' && /^[0-9]+$/.test(status) ? Number(status) : status
  if (!Number.isInteger(code) || code < 200 || code > 599) {
    throw new InvalidResult('status is not a number between 200 and 599')
  }
  const out = [['Fn-Http-Status', String(code)]]
  let givenType = null
  for (const [name, value] of Object.entries(headers ?? {})) {
    const lower = name.toLowerCase().replace(HTTP_PREFIX, '')
    if (FRAMING.has(lower) || lower === 'fn-http-status') continue
    if (lower === 'content-type') {
      givenType = String([value].flat()[0])
      continue
    }
    const wireName = UNPREFIXED.has(lower) ? lower : 'Fn-Http-H-' + canonical(lower)
    for (const item of [value].flat()) out.push([wireName, checked(lower, item)])
  }
  const type = givenType ?? contentType
  if (type) out.push(['Content-Type', checked('content-type', type)])
  return { status: 200, headers: out, body: BODYLESS.has(code) ? Buffer.alloc(0) : body }
}

function checked (name, value) {
  const text = String(value)
  if (!TOKEN.test(name) || CONTROL.test(text)) {
    throw new InvalidResult(`header ${JSON.stringify(name.slice(0, 64))} cannot be sent`)
  }
  return Buffer.from(text).toString('latin1')
}

function encode (value) {
  if (value === undefined || value === null) return [Buffer.alloc(0), null]
  if (typeof value === 'string') return [Buffer.from(value), 'text/plain; charset=utf-8']
  if (value instanceof Uint8Array) return [Buffer.from(value), 'application/octet-stream']
  if (value instanceof ArrayBuffer) return [Buffer.from(value), 'application/octet-stream']
  if (isSource(value)) return [value, 'application/octet-stream']
  return [json(value), 'application/json']
}

function json (value) {
  let text
  try {
    text = JSON.stringify(value)
  } catch (error) {
    throw new InvalidResult(`cannot send what the function returned: ${error.message.split('\n')[0]}`)
  }
  if (text === undefined) throw new InvalidResult(`cannot send a ${typeof value}`)
  return Buffer.from(text)
}

function fromBase64 (body) {
  const text = body.toString('latin1')
  if (!/^[A-Za-z0-9+/]*={0,2}$/.test(text) || text.length % 4 !== 0) {
    throw new InvalidResult('body is not base64 though isBase64Encoded says so')
  }
  return Buffer.from(text, 'base64')
}

function textOrBase64 (body) {
  if (body.length === 0) return { body: null, isBase64Encoded: false }
  return isUtf8(body)
    ? { body: body.toString(), isBase64Encoded: false }
    : { body: body.toString('base64'), isBase64Encoded: true }
}

function pathAndQuery (url) {
  const [beforeFragment] = url.split('#', 1)
  const at = beforeFragment.indexOf('?')
  const path = (at < 0 ? beforeFragment : beforeFragment.slice(0, at)).replace(/^[a-z][a-z0-9+.-]*:\/\/[^/]*/i, '')
  return [path, at < 0 ? '' : beforeFragment.slice(at + 1)]
}

function pathParams (request) {
  try {
    const params = JSON.parse(request.header('fn-path-params') ?? '{}')
    return params !== null && typeof params === 'object' ? params : {}
  } catch {
    return {}
  }
}

function attemptOf (request) {
  const attempt = request.header('fn-attempt') ?? '1'
  return /^[0-9]+$/.test(attempt) ? Number(attempt) : 1
}

function canonical (name) {
  return name.replaceAll('_', '-').split('-').map((part) => part.slice(0, 1).toUpperCase() + part.slice(1).toLowerCase()).join('-')
}

function canonicalHeaders (headers) {
  return Object.fromEntries(Object.entries(headers).map(([name, values]) => [canonical(name), [...values]]))
}

module.exports = { Request, Context, InvalidResult, buildEvent, answerEvent, answerFdk, answerFailure, withLog }
