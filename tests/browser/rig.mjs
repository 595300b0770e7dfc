// The gateway and the DevRev simulator as processes, and a browser for this test alone.

import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { chromium } from 'playwright-core';

const START_MS = 20_000;
const FLAGS = ['--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
  '--disable-background-networking', '--disable-component-update', '--disable-sync'];

export const sha256 = key => createHash('sha256').update(key).digest('hex');

export async function scratch(t) {
  const dir = await mkdtemp(join(tmpdir(), 'revgate-browser-'));
  // The browser may still write its profile when it has been closed.
  t.after(() => rm(dir, { recursive: true, force: true, maxRetries: 20, retryDelay: 100 }));
  return dir;
}

// Starts the binary and waits until each of these listeners is bound. `all` has those of all gateways of a demo.
export async function start(t, args, listeners, env = {}) {
  const child = spawn(process.env.REVGATE_BIN, args, { stdio: ['ignore', 'ignore', 'pipe'], env: { ...process.env, ...env } });
  t.after(async () => {
    if (child.exitCode === null && child.signalCode === null) {
      child.kill('SIGKILL');
      await once(child, 'exit');
    }
  });
  const bound = {}, all = [];
  let log = '';
  await new Promise((done, failed) => {
    const late = setTimeout(() => failed(new Error(`not listening in time:\n${log}`)), START_MS);
    child.once('exit', () => failed(new Error(`ended:\n${log}`)));
    createInterface({ input: child.stderr }).on('line', line => {
      log += `${line}\n`;
      let entry;
      try { entry = JSON.parse(line); } catch { return; }
      if (entry.message === 'listening') {
        bound[entry.listener] = entry.address;
        all.push([entry.listener, entry.address]);
      }
      if (listeners.every(name => bound[name])) {
        clearTimeout(late);
        done();
      }
    });
  });
  return { bound, all, child };
}

export async function mock(t, dir, plan, limit) {
  const file = join(dir, 'plan.toml');
  await writeFile(file, plan);
  const { bound } = await start(t, ['mock', '--listen', '127.0.0.1:0', '--plan', file, '--limit', String(limit), '--window', '60s'], ['mock']);
  return bound.mock;
}

export async function gateway(t, dir, toml, env) {
  const file = join(dir, 'revgate.toml');
  await writeFile(file, toml);
  return start(t, ['run', '-c', file], ['proxy', 'admin'], env);
}

// A browser with an empty profile, with further `flags` if options has some.
export async function browser(t, dir, options = {}) {
  const { flags = [], ...rest } = options;
  const context = await chromium.launchPersistentContext(join(dir, 'profile'), {
    executablePath: process.env.CHROMIUM, args: [...FLAGS, ...flags], chromiumSandbox: false, ...rest,
  });
  t.after(() => context.close());
  return context;
}
