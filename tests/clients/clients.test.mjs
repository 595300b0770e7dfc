// DevRev's own TypeScript SDK, the last version that knows only the deprecated names and a new one, through revgate.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { createInterface } from 'node:readline';
import { describe, test } from 'node:test';

const require = createRequire(import.meta.url);

const BINARY = process.env.REVGATE_BIN
  ? resolve(process.env.REVGATE_BIN)
  : resolve(import.meta.dirname, '../..', process.env.CARGO_TARGET_DIR || 'target', 'debug/revgate');

const KEY = 'sdk-key';
const TOKEN = 'upstream-token';
const START_MS = 10_000;
const STOP_MS = 5_000;
const CALL_MS = 15_000;
const TEST_MS = 60_000;

const NO_FAULTS = '';
const ONE_429 = `
[[rule]]
operation = "works.list"
times = 1
fault = { status = { code = 429, retry_after = 1 } }
`;

const LINK = {
  user_don: 'don:identity:dvrv-us-1:devo/0:revo/6:revu/131',
  rev_org_don: 'REV-AbCdEfGh',
};
const LINK_AS_WRITTEN = '{"user_don":"don:identity:dvrv-us-1:devo/0:revo/6:revu/131","rev_org_don":"REV-AbCdEfGh"}';
const LINK_RENAMED = '{"id":"don:identity:dvrv-us-1:devo/0:revo/6:revu/131","rev_org":"REV-AbCdEfGh"}';

const LIST = { limit: 2, owned_by: ['DEVU-1', 'DEVU-2'], 'issue.rev_orgs': ['REV-1'] };
const LIST_TARGET = '/works.list?limit=2&owned_by=%22DEVU-1%22,%22DEVU-2%22&issue.rev_orgs=%22REV-1%22';

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

/** The simulator with a plan, and a gateway in front of it. */
async function rig(t, plan) {
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
[admin]
address = "127.0.0.1:0"
[upstream]
url = "http://${mock}"
[tokens.main]
env = "DEVREV_TOKEN"
[callers.sdk]
key_sha256 = "${createHash('sha256').update(KEY).digest('hex')}"
`,
  );
  const { proxy } = await revgate(t, ['run', '-c', configFile], ['proxy'], { DEVREV_TOKEN: TOKEN });
  return { mock: `http://${mock}`, proxy: `http://${proxy}` };
}

async function received(mock) {
  const response = await fetch(`${mock}/_requests`, { signal: AbortSignal.timeout(CALL_MS) });
  assert.equal(response.status, 200);
  return response.json();
}

/** All values, since one too many would be a fault as well. */
function values(request, name) {
  return request.headers.filter(([key]) => key.toLowerCase() === name).map(([, value]) => value);
}

/** What a gateway must have done to any request. */
function assertVouchedFor(requests) {
  for (const request of requests) assert.deepEqual(values(request, 'authorization'), [`Bearer ${TOKEN}`]);
  assert.ok(!JSON.stringify(requests).includes(KEY), "the caller's key went upstream");
}

for (const [alias, version] of [
  ['sdk-old', '1.1.22'],
  ['sdk-new', '1.1.71'],
]) {
  assert.equal(require(`./node_modules/${alias}/package.json`).version, version);
  const { client } = require(alias);
  const bounded = () => ({ signal: AbortSignal.timeout(CALL_MS) });

  describe(`@devrev/typescript-sdk ${version}`, () => {
    // The tests below rely on this; without it they would pass for the wrong reason.
    test('alone: old names, a bare token, no second try', { timeout: TEST_MS }, async (t) => {
      const { mock } = await rig(t, ONE_429);
      const sdk = client.setupBeta({ endpoint: mock, token: KEY });

      await sdk.linkRevUserToRevOrg(LINK, bounded());
      await assert.rejects(sdk.worksList(LIST, bounded()), (error) => error.response?.status === 429);

      const [link, list, ...more] = await received(mock);
      assert.equal(link.body, LINK_AS_WRITTEN);
      assert.deepEqual(values(link, 'authorization'), [KEY]);
      assert.equal(list.target, LIST_TARGET);
      assert.deepEqual(more, []);
    });

    test('deprecated names are renamed, in their order', { timeout: TEST_MS }, async (t) => {
      const { mock, proxy } = await rig(t, NO_FAULTS);
      const sdk = client.setupBeta({ endpoint: proxy, token: KEY });

      const answer = await sdk.linkRevUserToRevOrg(LINK, bounded());
      assert.equal(answer.status, 200);

      const requests = await received(mock);
      assert.equal(requests.length, 1);
      assert.equal(requests[0].method, 'POST');
      assert.equal(requests[0].target, '/rev-users.link');
      assert.equal(requests[0].body, LINK_RENAMED);
      assert.deepEqual(values(requests[0], 'content-length'), [String(LINK_RENAMED.length)]);
      assert.deepEqual(values(requests[0], 'x-devrev-scope'), ['beta']);
      assertVouchedFor(requests);
    });

    test('a query with arrays arrives byte for byte', { timeout: TEST_MS }, async (t) => {
      const { mock, proxy } = await rig(t, NO_FAULTS);
      const sdk = client.setupBeta({ endpoint: proxy, token: KEY });

      const answer = await sdk.worksList(LIST, bounded());
      assert.equal(answer.status, 200);
      assert.ok(Array.isArray(answer.data.works));

      const requests = await received(mock);
      assert.equal(requests.length, 1);
      assert.equal(requests[0].method, 'GET');
      assert.equal(requests[0].target, LIST_TARGET);
      assert.equal(requests[0].body, '');
      assertVouchedFor(requests);
    });

    test('a 429 is waited out for a client that never tries again', { timeout: TEST_MS }, async (t) => {
      const { mock, proxy } = await rig(t, ONE_429);
      const sdk = client.setupBeta({ endpoint: proxy, token: KEY });

      const answer = await sdk.worksList(LIST, bounded());
      assert.equal(answer.status, 200);
      assert.ok(Array.isArray(answer.data.works));

      const requests = await received(mock);
      assert.deepEqual(
        requests.map(({ status }) => status),
        [429, 200],
      );
      for (const request of requests) assert.equal(request.target, LIST_TARGET);
      const waited = requests[1].at_ms - requests[0].at_ms;
      assert.ok(waited >= 1000, `Retry-After said 1 s, but ${waited} ms passed`);
      assertVouchedFor(requests);
    });
  });
}
