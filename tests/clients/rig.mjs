// A simulator and a gateway in front of it, each a process.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { createInterface } from 'node:readline';

const BINARY = process.env.REVGATE_BIN
  ? resolve(process.env.REVGATE_BIN)
  : resolve(import.meta.dirname, '../..', process.env.CARGO_TARGET_DIR || 'target', 'debug/revgate');

export const KEY = 'sdk-key';
export const TOKEN = 'upstream-token';
const START_MS = 10_000;
const STOP_MS = 5_000;
export const CALL_MS = 15_000;
export const TEST_MS = 60_000;

export const NO_FAULTS = '';

// All traffic is on loopback, so it must not go through a proxy.
for (const name of ['http_proxy', 'https_proxy', 'all_proxy']) {
  delete process.env[name];
  delete process.env[name.toUpperCase()];
}

// Kills the children however this process ends.
const running = new Set();
process.on('exit', () => running.forEach((child) => child.kill('SIGKILL')));
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, () => process.exit(1));

/** Starts revgate and waits until it has logged the address of each of `listeners`. */
async function revgate(t, args, listeners, env = {}) {
  const child = spawn(BINARY, args, { env, stdio: ['ignore', 'ignore', 'pipe'] });
  const exited = new Promise((done) => {
    child.once('exit', (code, signal) => done(`exited: ${signal ?? code}`));
    child.once('error', (error) => done(`could not be started: ${error.message}`));
  });
  running.add(child);
  exited.then(() => running.delete(child));
  t.after(() => stop(child, exited));

  const lines = [];
  const addresses = {};
  const ready = new Promise((done) => {
    createInterface({ input: child.stderr }).on('line', (line) => {
      if (lines.push(line) > 200) lines.shift();
      const entry = parse(line);
      if (entry?.message !== 'listening') return;
      addresses[entry.listener] = entry.address;
      if (listeners.every((listener) => addresses[listener])) done();
    });
  });
  const failed = await Promise.race([ready, exited, after(START_MS, `no listening line within ${START_MS} ms`)]);
  assert.equal(failed, undefined, `revgate ${args[0]} ${failed}; standard error:\n${lines.join('\n')}`);
  return addresses;
}

/** By its pid, and not kindly when it takes its time. */
async function stop(child, exited) {
  child.kill('SIGTERM');
  if ((await Promise.race([exited, after(STOP_MS, 'late')])) === 'late') child.kill('SIGKILL');
  await exited;
}

function after(ms, value) {
  return new Promise((done) => setTimeout(done, ms, value).unref());
}

function parse(line) {
  try {
    return JSON.parse(line);
  } catch {
    return undefined;
  }
}

/** The simulator with a plan, and a gateway in front of it, with TLS if there is a certificate. */
export async function rig(t, plan, tls) {
  const directory = await mkdtemp(join(tmpdir(), 'revgate-clients-'));
  t.after(() => rm(directory, { recursive: true, force: true }));
  const planFile = join(directory, 'plan.toml');
  await writeFile(planFile, plan);
  const { mock } = await revgate(t, ['mock', '--listen', '127.0.0.1:0', '--plan', planFile], ['mock']);

  const configFile = join(directory, 'revgate.toml');
  await writeFile(
    configFile,
    `
[listen]
address = "127.0.0.1:0"
${tls ? `tls = { cert = "${tls.cert}", key = "${tls.key}" }` : ''}
[admin]
address = "127.0.0.1:0"
[upstream]
url = "http://${mock}"
[tokens.main]
env = "DEVREV_TOKEN"
[callers.sdk]
key_sha256 = "${createHash('sha256').update(KEY).digest('hex')}"
rate = "1000/s"
burst = 1000
`,
  );
  const { proxy } = await revgate(t, ['run', '-c', configFile], ['proxy'], { DEVREV_TOKEN: TOKEN });
  return { mock: `http://${mock}`, proxy: `${tls ? 'https' : 'http'}://${proxy}` };
}

export async function received(mock) {
  const response = await fetch(`${mock}/_requests`, { signal: AbortSignal.timeout(CALL_MS) });
  assert.equal(response.status, 200);
  return response.json();
}
