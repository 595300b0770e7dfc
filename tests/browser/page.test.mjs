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

const figure = text => Number(text.replaceAll(',', '').match(/^\d+/)?.[0]);
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
    assert.equal(figure(await cell(page, name, 4)), c.requests, `${name}: requests`);
    assert.equal(figure(await cell(page, name, 5)), c.refused, `${name}: refused`);
    assert.equal(figure(await cell(page, name, 7)), c.deprecated, `${name}: deprecated`);
    const refusals = await row(page, 'callers', name).locator('td').nth(5).textContent();
    const would = refusals.match(/would refuse (\d+)/)?.[1] ?? 0;
    assert.equal(Number(would), c.would_refuse, `${name}: would refuse`);
  }
  const main = page.locator('article[data-group="main"]');
  assert.equal(figure(await main.locator('.count').textContent()), now.quota.main.remaining);
  const key = await main.locator('.key').innerText();
  for (const [caller, units] of Object.entries(now.quota.main.used_by_caller)) assert.match(key, new RegExp(`^${caller} ${units}$`, 'm'));
  assert.equal(await page.locator('#alerts li.serious, #alerts li.warning, #alerts li.notice').count(), now.alerts.length);
  return true;
}

// Text that is too pale for its ground, by WCAG 2 level AA.
const pale = page => page.evaluate(() => {
  const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
  const rgba = text => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = text;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const light = ([r, g, b]) => {
    const part = n => n / 255 <= 0.04045 ? n / 255 / 12.92 : ((n / 255 + 0.055) / 1.055) ** 2.4;
    return 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
  };
  const ground = node => {
    for (let at = node; at; at = at.parentElement) {
      const colour = rgba(getComputedStyle(at).backgroundColor);
      if (colour[3] === 255) return colour;
    }
    return rgba(getComputedStyle(document.body).backgroundColor);
  };
  const found = [];
  for (const node of document.querySelectorAll('body *')) {
    const own = [...node.childNodes].some(child => child.nodeType === Node.TEXT_NODE && child.data.trim());
    if (!own || !node.checkVisibility() || ['SCRIPT', 'STYLE', 'title'].includes(node.tagName)) continue;
    const style = getComputedStyle(node);
    const ink = light(rgba(node instanceof SVGElement ? style.fill : style.color)), paper = light(ground(node));
    const contrast = (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
    if (contrast < 4.5) found.push(`${node.textContent.slice(0, 40)}: ${contrast.toFixed(2)}`);
  }
  return found;
});

async function shoot(page, dir, name) {
  const to = process.env.SCREENSHOTS ?? dir;
  await mkdir(to, { recursive: true });
  await page.screenshot({ path: join(to, `${name}.png`), fullPage: true });
}

test('it shows what /status says, updates itself, and resumes a group', { timeout: 120_000 }, async t => {
  const rig = await running(t);
  const { page, faults, loads } = await open(t, rig, { colorScheme: 'light', viewport: { width: 1200, height: 900 } });
  assert.equal(await page.locator('#deprecations').textContent(), 'No deprecated fields or operations seen.');
  assert.match(await page.locator('#vitals').innerText(), /Deprecated use\s+none/);
  await traffic(rig.call);

  await until('the numbers agree without a reload', () => agrees(page, rig.status));
  const status = await rig.status();
  assert.equal(status.callers.reports.refused_by_code.caller_rate_limited, 3);
  assert.equal(status.callers.trial.would_refuse_by_code.caller_rate_limited, 2);
  // Two calls with two fields each.
  assert.deepEqual([status.callers.billing.deprecated, status.callers.billing.deprecated_fields], [2, 4]);
  assert.ok(status.callers.billing.share > 0.8 && status.callers.billing.share < 1);
  assert.ok(status.traffic.points.length < 180 && status.traffic.points[0].at <= status.started_at, 'history begins with the process');
  const total = pick => status.traffic.points.reduce((sum, point) => sum + pick(point), 0);
  assert.deepEqual(['requests', 'failed', 'refused', 'throttled'].map(key => total(p => p[key])), [146, 9, 7, 1]);
  assert.equal(status.tokens.main.state, 'valid');
  assert.match(await row(page, 'tokens', 'main').textContent(), /valid.*in 3\d days/);
  assert.match(await page.locator('#tokens').textContent(), /expires soon/);
  assert.equal(await page.locator('#deprecations tbody tr').count(), 1);
  assert.match(await page.locator('#deprecations tbody').textContent(), /billingrev-users\.linkthe operation itselffields rev_org_don 2, user_don 2/);
  assert.match(await row(page, 'callers', 'reports').textContent(), /caller_rate_limited\u00a03/);

  // What is wrong is said first, each with a way to more about it.
  const chip = name => page.locator('#alerts li', { hasText: name });
  assert.match(await chip('Deprecated use by billing').getAttribute('class'), /notice/);
  assert.match(await chip('expires within a day').innerText(), /in 59:\d\d/);
  const paused_chip = chip(`The quota of ${SLOW} is paused by DevRev`);
  assert.match(await paused_chip.innerText(), /sent again in (5:00|4:\d\d)/);
  assert.match(await paused_chip.getAttribute('class'), /serious/);
  assert.equal(await page.locator('#ready').textContent(), 'ready, but look below');
  assert.match(await page.locator('#alerts-said').textContent(), /^serious: the quota of/);
  await chip('expires within a day').getByRole('link').click();
  assert.ok(await page.locator('#tokens').evaluate(node => node.getBoundingClientRect().top < innerHeight), 'its link shows it');
  await page.evaluate(() => scrollTo(0, 0));
  assert.match(await page.locator('#reload').textContent(), /Not reloaded since/);

  // A hostile name is shown as text everywhere.
  assert.equal(await page.locator('#callers th > span', { hasText: '<img src=x' }).textContent(), HOSTILE);
  assert.equal(await page.locator('main img, main script, main b b').count(), 0);

  // The plot by pointer and by keys.
  const plot = page.locator('svg.plot');
  await plot.focus();
  await page.keyboard.press('End');
  await page.keyboard.press('ArrowLeft');
  assert.match(await plot.getAttribute('aria-valuetext'), /\d\d:\d\d:\d\d to \d\d:\d\d:\d\d, \d+ requests?/);
  await plot.hover();
  assert.match(await page.locator('#callers-key').textContent(), /\d\d:\d\d:\d\d to .*billing/);

  // Sorted by share at first; by those that wait at a click.
  const order = () => page.locator('#callers tbody th > span:first-child').allTextContents();
  assert.equal((await order()).filter(name => name !== HOSTILE)[0], 'billing');
  await page.getByRole('button', { name: 'Requests' }).focus();
  await page.keyboard.press('Enter');
  assert.equal(await page.locator('#callers [aria-sort]').textContent(), 'Requests');
  const sent = (await rig.status()).callers;
  const counts = (await order()).map(name => sent[name].requests);
  assert.deepEqual(counts, [...counts].sort((a, b) => b - a));

  // A pause counts down, and ends by a click.
  const paused = page.locator('article', { hasText: SLOW });
  const seconds = async () => {
    const [minutes, rest] = (await paused.locator('.paused b').textContent()).split(':').map(Number);
    return minutes * 60 + rest;
  };
  const before = await seconds();
  assert.ok(before > 200 && before <= 300, `${before} s`);
  await until('the countdown counts', async () => await seconds() <= before - 2);
  assert.deepEqual(await pale(page), []);
  assert.equal(await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth), 0);
  await shoot(page, rig.dir, 'light');
  await page.emulateMedia({ colorScheme: 'dark' });
  assert.deepEqual(await pale(page), []);
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
  const { page, faults } = await open(t, rig, { colorScheme: 'dark', viewport: { width: 400, height: 800 }, reducedMotion: 'reduce' });
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
  const { bound } = await start(t, ['demo', '--load', 'off'], ['admin']);
  const origin = `http://${bound.admin}`;
  const real = await (await fetch(`${origin}/status`)).json();
  const end = Math.floor(real.now / 5) * 5;
  const wave = i => Math.round(300 + 200 * Math.sin(i / 14) + 60 * Math.sin(i * 1.7));
  const group = { ...real.quota.main, limit: 1000, reset: end + 140, resets_in_seconds: 140 };
  const caller = { ...real.callers.billing, group: 'main', requests: 51234, last_seen: end };
  const waits = { p50_seconds: 0.03, p95_seconds: 12.4 };
  const named = (name, severity, link, text, more = {}) => ({ name, severity, subject: null, text, link, since: end - 90, next: null, next_at: null, ...more });
  const told = {
    ...real, ready: false, health: 'unready', reasons: ['draining'], started_at: end - 100_000,
    alerts: [
      named('circuit_open', 'serious', '#upstream', 'the circuit is open: nothing is sent to DevRev', { next: 'next probe', next_at: real.now + 4.2 }),
      named('token_refused', 'serious', '#tokens', 'token main is refused by DevRev', { next: 'next probe', next_at: real.now - 1 }),
      named('log_lines_dropped', 'warning', '#traffic', '12 log lines were dropped since the start'),
    ],
    deprecated_calls: [{ caller: 'billing', operation: 'rev-users.link', operation_deprecated: true, calls: 34, refused: 3, fields: { user_don: 37 }, last_seen: end }],
    traffic: { step_seconds: 5, top_per_step: 620,
      callers: ['billing', 'reports', null].map((caller, n) => ({ caller, requests: Array.from({ length: 180 }, (_, i) => i === 60 ? 3000 : Math.round(wave(i) * [0.6, 0.3, 0.1][n])) })),
      quota: [{ group: 'main', limit: 1000, remaining: Array.from({ length: 180 }, (_, i) => i % 60 ? 1000 - 11 * (i % 60) : null) }],
      points: Array.from({ length: 180 }, (_, i) => ({
      at: end - (179 - i) * 5, requests: wave(i), failed: i > 120 && i < 132 ? Math.round(wave(i) / 3) : 0,
      refused: i % 7 ? 4 : 21, throttled: i === 70 || i === 71 ? 3 : 0 })) },
    quota: {
      main: { ...group, state: 'spread', remaining: 310, in_flight: 24, external: 130, reserve: 200, waiting: 31, window_started_at: end - 160,
        used_by_caller: { billing: 400, reports: 120, idle: 3 }, waiting_by_caller: { reports: 25, billing: 6 } },
      nightly: { ...group, state: 'spent', remaining: 0, waiting: 1, window_started_at: end - 160, waiting_by_caller: { nightly: 1 } },
      fast: { ...group, state: 'open', remaining: 800, window_started_at: end - 160, spreads_at: real.now + 62 },
    },
    callers: {
      billing: { ...caller, weight: 3, remaining: 25, share: 0.62, waiting: 6, waits, deprecated: 34, deprecated_refused: 3, deprecated_fields: 37 },
      reports: { ...caller, priority: 'batch', remaining: 40, share: 0.375, waiting: 25, waits, refused: 1250, refused_by_code: { quota_exhausted: 1240, circuit_open: 10 } },
      idle: { ...caller, requests: 0, last_seen: null, share: 0.004 },
    },
    upstream: { url: 'https://api.devrev.ai/', answers: { p50_seconds: 0.045, p95_seconds: 0.21 }, circuit: { state: 'open', failures: 20, next_probe_in_seconds: 4.2, stopped_total: 9, stopped: [
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
  const main = (await page.locator('article[data-group="main"] :is(.head, .level, .left, .key span, .notes p)').allTextContents()).join('\n');
  assert.match(main, /billing 400\s+reports 120\s+others 3\s+earlier 37\s+outside revgate 130\s+under way 24\s+free 216\s+kept for others 70/);
  assert.match(main, /full again in 2:\d\d/);
  assert.match(main, /dealt out evenly until the reset/);
  assert.doesNotMatch(main, /used up/, 'what is spread lasts');
  assert.match(await page.locator('article[data-group="fast"]').textContent(), /go at once for another 1:0\d, until [\d:]+; then the rest is dealt out evenly/);
  assert.match(await page.locator('article[data-group="main"] .time title').textContent(), /^5[3-9]\u00a0% of the window has passed$/);
  const alerts = await page.locator('#alerts li').allInnerTexts();
  assert.match(alerts[0], /The circuit is open: nothing is sent to DevRev · next probe in 0:0\d/);
  assert.match(alerts[1], /Token main is refused by DevRev · the next call is the probe/);
  assert.match(await text('vitals'), /circuit open\s*p95 210\u00a0ms[^]*refused by DevRev\s*main[^]*34 calls\s*billing[^]*reload refused/);
  // One burst is cut and labelled, and does not flatten the rest.
  assert.match(await page.locator('svg.plot').textContent(), /200\/s.*↑ 1,800\/s|160\/s.*↑ 1,800\/s/);
  assert.match(await page.locator('#deprecations tbody').textContent(), /billingrev-users\.linkthe operation itselffields user_don 37343(just now|\d seconds ago)/);
  assert.match(await row(page, 'callers', 'billing').textContent(), /34 calls37 fields3 refused/);
  assert.match(await row(page, 'callers', 'billing').textContent(), /30\u00a0ms12\u00a0s/);
  assert.match(await text('upstream'), /Nothing is sent: 20 failures in a row. Next try in 0:0\d/);
  assert.match(await text('upstream'), /stopped: works\.create, for billing alone\. Next try in 0:0\d/);
  assert.match(await text('upstream'), /stopped: everything, for reports alone\. The next call is a try\.[^]*works\.list, for all\.[^]*And 6 more/);
  assert.match(await text('tokens'), /expired\n.*2 hours ago\nDevRev refuses it/);
  assert.match(await text('reload'), /was refused 1 minute ago[^]*callers\.billing\.rate is not[^]*from before goes on[^]*only after a restart: listen\.address/);
  // What an operator wants to know is there without scrolling.
  const bottom = selector => page.locator(selector).first().evaluate(node => node.getBoundingClientRect().bottom);
  for (const seen of ['#alerts', '#vitals', '#traffic', 'article[data-group="main"]']) assert.ok(await bottom(seen) <= 900, `${seen}: ${await bottom(seen)}`);
  for (const colorScheme of ['light', 'dark']) {
    await page.emulateMedia({ colorScheme });
    assert.deepEqual(await pale(page), [], colorScheme);
  }
  for (const width of [1200, 800, 400]) {
    await page.setViewportSize({ width, height: 900 });
    assert.equal(await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth), 0);
    await shoot(page, dir, `busy-${width}`);
  }
  assert.deepEqual(faults, []);
});

test('a fleet: Redis answers, is away, and a group is left out', { timeout: 60_000 }, async t => {
  const dir = await scratch(t);
  const { bound } = await start(t, ['demo', '--load', 'off'], ['admin']);
  const origin = `http://${bound.admin}`;
  const real = await (await fetch(`${origin}/status`)).json();
  const exchanges = { ok: 51_234, conflict: 812, timeout: 3, down: 0, broken: 0, overtaken: 0, full: 0, not_writable: 0, refused: 0, denied: 0 };
  const up = { state: 'up', since: real.now - 5000, fault: null, reason: null, timeout_seconds: 0.05, p50_seconds: 0.00034, p99_seconds: 0.0021, exchanges, alone_seconds: 0 };
  const shares = { sharing: 'plenty', alone_since: null, fault: null, reason: null, exchanged_at: real.now - 1, replicas: 312, free: 480, leased: 60, leased_here: 4, limbo: 0, waiting: 0, waiting_by_caller: {} };
  const unknown = Object.fromEntries(Object.keys(shares).map(key => [key, null]));
  const scarce = { ...shares, sharing: 'scarce', exchanged_at: real.now - 130, free: 0, leased: 0, leased_here: 0, limbo: 12, waiting: 31, waiting_by_caller: { [HOSTILE]: 25, other: 6 } };
  const main = { ...real.quota.main, limit: 1000, remaining: 540, reset: Math.floor(real.now) + 140, resets_in_seconds: 140, window_started_at: real.now - 160 };
  let told = { ...real, shared: up, quota: { main: { ...main, fleet: shares }, nightly: { ...main, fleet: scarce }, idle: { ...real.quota.main, fleet: unknown } } };
  const context = await browser(t, dir, { viewport: { width: 1200, height: 900 } });
  const page = context.pages()[0];
  const faults = [];
  page.on('pageerror', error => faults.push(String(error)));
  await page.route('**/status', route => route.fulfill({ json: { ...told, now: Date.now() / 1000 } }));
  await page.goto(`${origin}/`);
  await page.locator('#fleet-groups table').waitFor();
  const text = id => page.locator(`#${id}`).innerText();
  const cells = name => row(page, 'fleet-groups', name).locator('td').allTextContents();
  assert.match(await text('vitals'), /Fleet\s+312 replicas\s*Redis p99 2\.1\u00a0ms/);
  assert.match(await text('register'), /can be used[^]*took under 1\u00a0ms, ninety-nine of a hundred 2\.1\u00a0ms; 50\u00a0ms are allowed\.[^]*ok\u00a051,234, conflict\u00a0812, timeout\u00a03\./);
  assert.deepEqual(await cells('main'), ['leased in advance', '312', '4', '60', '480', '0', '0']);
  assert.deepEqual(await cells('nightly'), ['dealt out one by oneas it was 2 minutes ago', '312', '0', '0', '0', '12kept until DevRev’s next answer', `31${HOSTILE} 25, other 6`]);
  assert.equal(await page.locator('#fleet-groups tbody tr').count(), 2, 'a group that was not used shares nothing');
  assert.equal(await page.locator('main img, main script').count(), 0);
  const fits = async name => {
    for (const colorScheme of ['light', 'dark']) {
      await page.emulateMedia({ colorScheme });
      assert.deepEqual(await pale(page), [], `${name} ${colorScheme}`);
    }
    for (const width of [1200, 800, 400]) {
      await page.setViewportSize({ width, height: 900 });
      assert.equal(await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth), 0, `${name} ${width}`);
      await shoot(page, dir, `${name}-${width}`);
    }
    await page.setViewportSize({ width: 1200, height: 900 });
  };
  await fits('fleet');

  const alone = { ...shares, sharing: 'alone', alone_since: real.now - 90, fault: 'down', reason: 'connection refused' };
  const alert = { name: 'shared_down', severity: 'warning', subject: null, text: 'Redis cannot be used: replicas go by DevRev\'s answers alone', link: '#fleet', since: real.now - 90, next: null, next_at: null };
  told = { ...told, alerts: [alert], shared: { ...up, state: 'down', since: real.now - 90, fault: 'down', reason: 'connection refused', alone_seconds: 95 }, quota: { main: { ...main, fleet: alone } } };
  await until('it says that Redis is away', async () => /Redis has been unusable for (1|2) minutes?: connection refused\./.test(await text('register')));
  assert.match(await text('register'), /Not shared for 1 minute in all since the start/);
  assert.match(await text('vitals'), /Fleet\s+Redis cannot be used\s*for 1 minute/);
  assert.match((await cells('main'))[0], /^not sharedfor 1 minute: connection refused$/);
  assert.match(await page.locator('article[data-group="main"] .notes').innerText(), /Not shared: this replica goes by DevRev’s answers alone/);
  assert.equal(await page.locator('#ready').textContent(), 'ready');
  const chip = page.locator('#alerts li', { hasText: 'Redis cannot be used' });
  assert.match(await chip.getAttribute('class'), /warning/);
  await chip.getByRole('link').click();
  assert.ok(await page.locator('#fleet').evaluate(node => node.getBoundingClientRect().top < innerHeight), 'its link shows it');
  await fits('fleet-down');

  // Without [shared] nothing of it is shown.
  const { shared, ...without } = told;
  told = without;
  await until('the fleet is gone', async () => await page.locator('#fleet-part').isHidden() && !(await text('vitals')).includes('Fleet'));
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

test('a demo of a fleet shows it on each page', { timeout: 60_000 }, async t => {
  const dir = await scratch(t);
  const { all } = await start(t, ['demo', '--replicas', '2', '--load', 'off'], ['admin']);
  const of = listener => all.filter(([name]) => name === listener).map(([, address]) => `http://${address}`);
  await until('both listen', () => of('proxy').length === 2);
  const body = '{"id":"TKT-1"}', headers = { authorization: 'Bearer demo-key', 'content-type': 'application/json' };
  for (const origin of [...of('proxy'), ...of('proxy')]) {
    assert.equal((await fetch(`${origin}/works.get`, { method: 'POST', body, headers })).status, 200);
  }
  const { page, faults } = await open(t, { dir, origin: of('admin')[0] }, { viewport: { width: 1200, height: 900 } });
  for (const origin of of('admin')) {
    await page.goto(`${origin}/`);
    await until('it counts both', async () => /Fleet\s+2 replicas\s*in memory, p99/.test(await page.locator('#vitals').innerText()));
    assert.match(await page.locator('#register').innerText(), /The register in memory can be used: replicas share the quota\./);
    assert.match(await page.locator('article[data-group="main"] .key').textContent(), /other replicas \d/);
  }
  await shoot(page, dir, 'demo-fleet');
  // The pages of both were opened here.
  assert.deepEqual(faults.filter(fault => !fault.includes(of('admin')[1])), []);
});

test('the demo has a page that is calm when nothing has happened', { timeout: 60_000 }, async t => {
  const dir = await scratch(t);
  const { bound } = await start(t, ['demo', '--load', 'off'], ['admin']);
  const { page, faults } = await open(t, { dir, origin: `http://${bound.admin}` }, { viewport: { width: 1200, height: 900 } });
  assert.match(await page.locator('#quota').textContent(), /Nothing is known of this quota yet/);
  assert.match(await page.locator('#upstream').textContent(), /no attempt has failed/);
  assert.equal(await page.locator('#alerts').textContent(), 'Nothing needs attention.');
  assert.equal(await page.locator('#ready').textContent(), 'ready');
  await shoot(page, dir, 'demo');
  assert.deepEqual(faults, []);
});
