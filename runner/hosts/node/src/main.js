#!/usr/bin/env node
'use strict'

// Starts the host: `node src/main.js --control PATH`.

const fs = require('node:fs')
const { parseArgs } = require('node:util')
const { Control } = require('./control')
const { LogSink, openStdout } = require('./logs')
const { Supervisor } = require('./supervisor')

const GRACE_MS = '5000' // a pod that is deleted leaves its containers 30 s, most of which the runner's drain has had
const LOG_CLOSE_MS = 1000 // the last lines may take so long to leave
const USAGE = `usage: node main.js --control PATH [--control-mode MODE] [--grace-ms MS] [--exit-with-stdin]
  --control PATH       Unix socket that the runner connects to
  --control-mode MODE  its file mode, octal (default 0600; 0666 where the runner has another uid)
  --grace-ms MS        between SIGTERM and SIGKILL of workers (default ${GRACE_MS})
  --exit-with-stdin    end when stdin is closed, as a child should
`

async function main () {
  const options = parse()
  const sink = new LogSink(openStdout())
  const supervisor = new Supervisor(sink)
  const control = new Control(supervisor)
  let stopping = false
  const stop = async () => {
    if (stopping) return
    stopping = true
    control.close()
    await supervisor.endAll(options.graceMs)
    supervisor.close()
    await sink.close(LOG_CLOSE_MS)
    fs.rmSync(options.control, { force: true })
    process.exit(0)
  }
  for (const name of ['SIGTERM', 'SIGINT']) process.on(name, stop)
  if (options.exitWithStdin) process.stdin.on('close', stop).resume()
  try {
    await control.listen(options.control, options.mode)
  } catch (error) {
    fail(`cannot listen on ${options.control}: ${error.code ?? error.message}`, 1)
  }
}

function parse () {
  let values
  try {
    values = parseArgs({
      options: {
        control: { type: 'string' },
        'control-mode': { type: 'string', default: '0600' },
        'grace-ms': { type: 'string', default: GRACE_MS },
        'exit-with-stdin': { type: 'boolean', default: false }
      }
    }).values
  } catch (error) {
    fail(`${error.message}\n${USAGE}`, 2)
  }
  const mode = values['control-mode']
  if (!values.control || !/^[0-7]{3,4}$/.test(mode) || !/^[0-9]{1,9}$/.test(values['grace-ms'])) fail(USAGE, 2)
  return {
    control: values.control,
    mode: parseInt(mode, 8),
    graceMs: Number(values['grace-ms']),
    exitWithStdin: values['exit-with-stdin']
  }
}

function fail (message, code) {
  process.stderr.write(message.trimEnd() + '\n')
  process.exit(code)
}

main()
