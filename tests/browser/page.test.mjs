// The status page as an operator sees it: live, in both themes, on a phone, with hostile names in the configuration.

import assert from 'node:assert/strict';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';

import { browser, gateway, mock, scratch, sha256, start } from './rig.mjs';

const HOSTILE = '<img src=x onerror=alert(1)>"\'</script><script>alert(2)</script>';
const SLOW = 'group <b>with</b> / a slash';
const WAIT_MS = 15_000;

const PLAN = `
[[rule]]
operation = "works.list"
fault = { status = { code = 429, retry_after = 300 } }
[[rule]]
operation = "tags.list"
times = 9
fault = { status = { code = 500 } }
`;

const jwt = claims => `e30.${Buffer.from(JSON.stringify(claims)).toString('base64url')}.c2ln`;

function config(upstream) {
  const q = text => JSON.stringify(text);
  return `
[listen]
address = "127.0.0.1:0"
[admin]
address = "127.0.0.1:0"
[upstream]
url = "http://${upstream}"
[tokens.main]
env = "TOKEN_MAIN"
[tokens.${q(HOSTILE)}]
env = "TOKEN_SLOW"
quota_group = ${q(SLOW)}
[retry]
max_attempts = 1
[callers.billing]
key_sha256 = "${sha256('billing')}"
token = "main"
rate = "100/s"
burst = 200
weight = 3
[callers.reports]
key_sha256 = "${sha256('reports')}"
token = "main"
rate = "1/min"
burst = 4
priority = "batch"
[callers.trial]
key_sha256 = "${sha256('trial')}"
token = "main"
rate = "1/min"
burst = 1
enforce = false
[callers.${q(HOSTILE)}]
key_sha256 = "${sha256('hostile')}"
token = ${q(HOSTILE)}
`;
}

async function running(t) {
  const dir = await scratch(t);
  const devrev = await mock(t, dir, PLAN, 400);
  const soon = Math.floor(Date.now() / 1000);
  const env = { TOKEN_MAIN: jwt({ exp: soon + 40 * 86400 }), TOKEN_SLOW: jwt({ exp: soon + 3600 }) };
  const { bound, child } = await gateway(t, dir, config(devrev), env);
  const call = (key, operation, body = {}, headers = {}) => fetch(`http://${bound.proxy}/${operation}`, {
    method: 'POST', body: JSON.stringify(body),
    headers: { authorization: key, 'content-type': 'application/json', ...headers },
  }).then(async answer => { await answer.text(); return answer.status; });
  const status = async () => (await fetch(`http://${bound.admin}/status`)).json();
  return { dir, child, call, status, origin: `http://${bound.admin}` };
}

// Traffic of every kind that the page shows.
async function traffic(call) {
  const many = (n, ...args) => Promise.all(Array.from({ length: n }, () => call(...args)));
  await many(120, 'billing', 'works.get', { id: 'ISS-1' });
  await many(9, 'billing', 'tags.list');
  await many(7, 'reports', 'accounts.list');
  await many(3, 'trial', 'works.get', { id: 'ISS-1' });
  await many(2, 'billing', 'rev-users.link', { user_don: 'REVU-1', rev_org_don: 'REV-1' });
  await many(4, 'nobody', 'works.get');
  assert.equal(await call('hostile', 'works.list'), 429);
}

// A page that records faults: errors, dialogs, requests to other origins.
async function open(t, rig, options = {}) {
  const context = await browser(t, rig.dir, options);
  const page = context.pages()[0] ?? await context.newPage();
  const faults = [];
  page.on('console', message => { if (['error', 'warning'].includes(message.type())) faults.push(message.text()); });
  page.on('pageerror', error => faults.push(String(error)));
  page.on('dialog', dialog => { faults.push(`a dialog: ${dialog.message()}`); dialog.dismiss(); });
  page.on('request', request => {
    const { protocol } = new URL(request.url());
    if (protocol !== 'data:' && !request.url().startsWith(`${rig.origin}/`)) faults.push(`a request to ${request.url()}`);
  });
  let loads = 0;
  page.on('load', () => { loads += 1; });
  await page.goto(`${rig.origin}/`);
  await page.locator('#callers table').waitFor();
  return { page, faults, loads: () => loads };
}

const figure = text => Number(text.replaceAll(',', ''));
const row = (page, table, name) => page.locator(`#${table} tbody tr`).filter({ has: page.locator('th > span', { hasText: new RegExp(`^${name}$`) }) });
const cell = (page, name, place) => row(page, 'callers', name).locator('td').nth(place).locator('> *').first().textContent();

async function until(what, check) {
  const end = Date.now() + WAIT_MS;
  for (let said; ;) {
    try { if (await check()) return; said = 'it is not so'; } catch (error) { said = error; }
    if (Date.now() > end) assert.fail(`${what}: ${said}`);
    await new Promise(done => setTimeout(done, 200));
  }
}

async function agrees(page, status) {
  const now = await status();
  for (const [name, c] of Object.entries(now.callers).filter(([name]) => name !== HOSTILE)) {
    assert.equal(figure(await cell(page, name, 3)), c.requests, `${name}: requests`);
    assert.equal(figure(await cell(page, name, 4)), c.refused, `${name}: refused`);
    assert.equal(figure(await cell(page, name, 6)), c.deprecated, `${name}: deprecated`);
    if (c.rate) assert.equal(figure(await cell(page, name, 5)), c.would_refuse, `${name}: would refuse`);
  }
  const main = page.locator('article[data-group="main"]');
  assert.equal(figure(await main.locator('.count').textContent()), now.quota.main.remaining);
  return true;
}

async function shoot(page, dir, name) {
  const to = process.env.SCREENSHOTS ?? dir;
  await mkdir(to, { recursive: true });
  await page.screenshot({ path: join(to, `${name}.png`), fullPage: true });
}

test('it shows what /status says, updates itself, and resumes a group', { timeout: 120_000 }, async t => {
  const rig = await running(t);
  const { page, faults, loads } = await open(t, rig, { colorScheme: 'light', viewport: { width: 1200, height: 900 } });
  assert.equal(await page.locator('#deprecations').textContent(), 'No deprecated fields or operations seen.');
  await traffic(rig.call);

  await until('the numbers agree without a reload', () => agrees(page, rig.status));
  const status = await rig.status();
  assert.equal(status.callers.reports.refused_by_code.caller_rate_limited, 3);
  assert.equal(status.callers.trial.would_refuse_by_code.caller_rate_limited, 2);
  // Two fields and the operation itself, twice.
  assert.equal(status.callers.billing.deprecated, 6);
  assert.ok(status.callers.billing.share > 0.8 && status.callers.billing.share < 1);
  assert.equal(status.traffic.points.length, 180);
  const total = pick => status.traffic.points.reduce((sum, point) => sum + pick(point), 0);
  assert.deepEqual(['requests', 'failed', 'refused', 'throttled'].map(key => total(p => p[key])), [146, 9, 7, 1]);
  assert.equal(status.tokens.main.state, 'valid');
  assert.match(await row(page, 'tokens', 'main').textContent(), /valid.*in 3\d days/);
  assert.match(await page.locator('#tokens').textContent(), /expires soon/);
  assert.match(await page.locator('#deprecations').textContent(), /billingrev-users\.linkfield rev_org_don2/);
  assert.match(await page.locator('#reload').textContent(), /Not reloaded since/);

  // A hostile name is shown as text everywhere.
  assert.equal(await page.locator('#callers th > span', { hasText: '<img src=x' }).textContent(), HOSTILE);
  assert.equal(await page.locator('main img, main script, main b b').count(), 0);

  // The plot by pointer and by keys.
  const plot = page.locator('svg.plot');
  await plot.focus();
  await page.keyboard.press('End');
  await page.keyboard.press('ArrowLeft');
  assert.match(await plot.getAttribute('aria-valuetext'), /\d\d:\d\d:\d\d to .* answered, .* refused, .* failed/);
  await plot.hover();
  assert.match(await page.locator('.readout').textContent(), /answered/);

  // A pause counts down, and ends by a click.
  const paused = page.locator('article', { hasText: SLOW });
  const seconds = async () => {
    const [minutes, rest] = (await paused.locator('.paused b').textContent()).split(':').map(Number);
    return minutes * 60 + rest;
  };
  const before = await seconds();
  assert.ok(before > 200 && before <= 300, `${before} s`);
  await until('the countdown counts', async () => await seconds() <= before - 2);
  await shoot(page, rig.dir, 'light');
  await page.emulateMedia({ colorScheme: 'dark' });
  await shoot(page, rig.dir, 'dark');
  await paused.getByRole('button', { name: /Resume/ }).click();
  await until('the pause has ended', async () => await paused.locator('.paused').isHidden()
    && (await rig.status()).quota[SLOW].paused_until === null);
  assert.match(await page.locator('#said').textContent(), /^Resumed/);

  await rig.call('billing', 'works.get', { id: 'ISS-1' });
  await until('it goes on', () => agrees(page, rig.status));
  assert.equal(loads(), 1);
  assert.deepEqual(faults, []);

  rig.child.kill('SIGKILL');
  await until('it says that nobody answers', async () => await page.locator('#stale').isVisible()
    && await page.locator('#ready').textContent() === 'no answer');
  await shoot(page, rig.dir, 'stale');
});

test('both themes, and a phone without sideways scrolling', { timeout: 120_000 }, async t => {
  const rig = await running(t);
  await traffic(rig.call);
  const { page, faults } = await open(t, rig, { colorScheme: 'dark', viewport: { width: 360, height: 740 }, reducedMotion: 'reduce' });
  await until('the numbers agree', () => agrees(page, rig.status));
  const ground = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  const overflow = () => page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
  const dark = await ground();
  assert.equal(await overflow(), 0);
  await shoot(page, rig.dir, 'phone-dark');
  await page.emulateMedia({ colorScheme: 'light' });
  assert.notEqual(await ground(), dark);
  assert.equal(await overflow(), 0);
  await shoot(page, rig.dir, 'phone-light');
  assert.equal(await page.evaluate(() => getComputedStyle(document.querySelector('main')).transitionDuration), '0s');
  assert.deepEqual(faults, []);
});

test('states that take long to bring about', { timeout: 60_000 }, async t => {
  const dir = await scratch(t);
  const { bound } = await start(t, ['demo'], ['admin']);
  const origin = `http://${bound.admin}`;
  const real = await (await fetch(`${origin}/status`)).json();
  const end = Math.floor(real.now / 5) * 5;
  const wave = i => Math.round(300 + 200 * Math.sin(i / 14) + 60 * Math.sin(i * 1.7));
  const group = { ...real.quota.main, limit: 1000, reset: end + 140, resets_in_seconds: 140 };
  const caller = { ...real.callers.demo, group: 'main', requests: 51234, last_seen: end };
  const told = {
    ...real, ready: false, reasons: ['draining'], started_at: end - 100_000,
    traffic: { step_seconds: 5, points: Array.from({ length: 180 }, (_, i) => ({
      at: end - (179 - i) * 5, requests: wave(i), failed: i > 120 && i < 132 ? Math.round(wave(i) / 3) : 0,
      refused: i % 7 ? 4 : 21, throttled: i === 70 || i === 71 ? 3 : 0 })) },
    quota: {
      main: { ...group, state: 'spread', remaining: 310, in_flight: 24, external: 130, reserve: 200, waiting: 31,
        waiting_by_caller: { reports: 25, billing: 6 }, runs_out_at: real.now + 62 },
      nightly: { ...group, state: 'spent', remaining: 0, waiting: 1, waiting_by_caller: { nightly: 1 } },
    },
    callers: {
      billing: { ...caller, weight: 3, remaining: 25, share: 0.62, waiting: 6 },
      reports: { ...caller, priority: 'batch', remaining: 40, share: 0.375, waiting: 25, refused: 1250, refused_by_code: { quota_exhausted: 1240, circuit_open: 10 } },
      idle: { ...caller, requests: 0, last_seen: null, share: 0.004 },
    },
    upstream: { url: 'https://api.devrev.ai/', circuit: { state: 'open', failures: 20, next_probe_in_seconds: 4.2, stopped_total: 9, stopped: [
      { scope: 'use', caller: 'billing', operation: 'works.create', state: 'open', next_probe_in_seconds: 3.2 },
      { scope: 'caller', caller: 'reports', operation: null, state: 'half_open', next_probe_in_seconds: 0 },
      { scope: 'operation', caller: null, operation: 'works.list', state: 'open', next_probe_in_seconds: 2 },
    ] } },
    tokens: { main: { quota_group: 'main', expires_at: end - 7200, state: 'expired', refused: true, next_probe_in_seconds: 9 } },
    reload: { at: end - 65, result: 'refused', changed: [], problems: [{ path: 'callers.billing.rate', message: 'is not valid; write a rate such as "50/s"' }], restart_needed: ['listen.address'] },
  };
  const context = await browser(t, dir, { viewport: { width: 1200, height: 900 } });
  const page = context.pages()[0];
  const faults = [];
  page.on('pageerror', error => faults.push(String(error)));
  await page.route('**/status', route => route.fulfill({ json: told }));
  await page.goto(`${origin}/`);
  await page.locator('#callers table').waitFor();
  const text = id => page.locator(`#${id}`).innerText();
  assert.equal(await text('ready'), 'draining');
  assert.match(await text('quota'), /31 requests wait: reports 25, billing 6/);
  assert.match(await text('quota'), /used up in 1:0\d/);
  assert.match(await text('quota'), /560 used\n130 used outside revgate\n24 under way\n216 free\n70 kept for others/);
  assert.match(await text('upstream'), /Nothing is sent: 20 failures in a row. Next try in 0:0\d/);
  assert.match(await text('upstream'), /stopped: works\.create, for billing alone\. Next try in 0:0\d/);
  assert.match(await text('upstream'), /stopped: everything, for reports alone\. The next call is a try\.[^]*works\.list, for all\.[^]*And 6 more/);
  assert.match(await text('tokens'), /expired\n.*2 hours ago\nDevRev refuses it/);
  assert.match(await text('reload'), /was refused 1 minute ago[^]*callers\.billing\.rate is not[^]*from before goes on[^]*only after a restart: listen\.address/);
  for (const width of [1200, 800]) {
    await page.setViewportSize({ width, height: 900 });
    assert.equal(await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth), 0);
    await shoot(page, dir, `busy-${width}`);
  }
  assert.deepEqual(faults, []);
});

test('the admin key is asked for only when the gateway asks for it', { timeout: 120_000 }, async t => {
  const dir = await scratch(t);
  const devrev = await mock(t, dir, PLAN, 400);
  const toml = config(devrev).replace('[admin]\naddress = "127.0.0.1:0"', '[admin]\naddress = "0.0.0.0:0"\nkey = { env = "ADMIN_KEY" }');
  const { bound } = await gateway(t, dir, toml, { TOKEN_MAIN: 'opaque', TOKEN_SLOW: 'opaque', ADMIN_KEY: 'the-key' });
  const rig = { dir, origin: `http://127.0.0.1:${bound.admin.split(':').pop()}` };
  await fetch(`http://${bound.proxy}/works.list`, { method: 'POST', body: '{}', headers: { authorization: 'hostile' } });
  const { page, faults } = await open(t, rig);
  await page.getByRole('button', { name: /Resume/ }).filter({ visible: true }).click();
  await page.getByLabel('Key', { exact: true }).fill('wrong');
  await page.keyboard.press('Enter');
  await page.getByText('That is not the admin key.').waitFor();
  await page.getByLabel('Key', { exact: true }).fill('the-key');
  await page.getByRole('button', { name: 'Continue' }).click();
  await until('the pause has ended', () => page.locator('article', { hasText: SLOW }).locator('.paused').isHidden());
  // The browser itself notes each 401.
  assert.deepEqual(faults.filter(fault => !fault.includes('401')), []);
  assert.match(await page.locator('#tokens').textContent(), /tells no expiry/);
});

test('the demo has a page that is calm when nothing has happened', { timeout: 60_000 }, async t => {
  const dir = await scratch(t);
  const { bound } = await start(t, ['demo'], ['admin']);
  const { page, faults } = await open(t, { dir, origin: `http://${bound.admin}` }, { viewport: { width: 1200, height: 900 } });
  assert.match(await page.locator('#quota').textContent(), /Nothing is known of this quota yet/);
  assert.match(await page.locator('#upstream').textContent(), /no attempt has failed/);
  await shoot(page, dir, 'demo');
  assert.deepEqual(faults, []);
});
