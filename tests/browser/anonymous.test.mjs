// Pages of other sites, in a browser on the machine of a gateway that serves clients without a credential.

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer } from 'node:http';
import { test } from 'node:test';

import { browser, gateway, scratch } from './rig.mjs';

async function serve(t, answer) {
  const server = createServer(answer).listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.after(() => { server.closeAllConnections(); server.close(); });
  return server.address().port;
}

// Everything that a page can send without being asked first, and what must be asked for.
const ATTACK = async gate => {
  const sent = [];
  const call = (name, options) => sent.push(fetch(`${gate}/${name}`, options).then(answer => answer.type, error => error.name));
  call('text.create', { method: 'POST', mode: 'no-cors', body: '{"type":"issue"}', headers: { 'content-type': 'text/plain' } });
  call('blob.create', { method: 'POST', mode: 'no-cors', body: new Blob(['{}']) });
  call('get.get', { mode: 'no-cors' });
  call('json.create', { method: 'POST', body: '{}', headers: { 'content-type': 'application/json' } });
  sent.push(navigator.sendBeacon(`${gate}/beacon.create`, '{}'));
  const image = new Image();
  sent.push(new Promise(done => { image.onload = image.onerror = () => done('image'); }));
  image.src = `${gate}/image.get`;
  const frame = document.createElement('iframe');
  frame.name = 'frame';
  document.body.append(frame);
  sent.push(new Promise(done => { frame.onload = () => done('form'); }));
  const form = document.createElement('form');
  Object.assign(form, { action: `${gate}/form.create`, method: 'post', enctype: 'text/plain', target: 'frame' });
  document.body.append(form);
  form.submit();
  return Promise.all(sent);
};

test('a page of another site calls nothing', async t => {
  const dir = await scratch(t);
  const arrived = [];
  const upstream = await serve(t, (request, answer) => {
    arrived.push(request.url);
    answer.setHeader('access-control-allow-origin', '*');
    answer.end('{}');
  });
  const { bound } = await gateway(t, dir, `
[listen]
address = "127.0.0.1:0"
[admin]
address = "127.0.0.1:0"
[upstream]
url = "http://127.0.0.1:${upstream}"
[tokens.main]
env = "TOKEN"
[callers.app]
anonymous = true
`, { TOKEN: 'token' });
  const port = bound.proxy.split(':').at(-1);
  const site = await serve(t, (request, answer) => {
    answer.setHeader('content-type', 'text/html');
    answer.end('<!doctype html><title>a page</title><body></body>');
  });
  // A name of the site's own that leads to this machine.
  const context = await browser(t, dir, { flags: ['--host-resolver-rules=MAP *.example 127.0.0.1'] });
  const page = context.pages()[0] ?? await context.newPage();

  for (const origin of [`http://evil.example:${site}`, `http://localhost:${site}`, `http://127.0.0.1:${site}`]) {
    for (const gate of [`http://127.0.0.1:${port}`, `http://localhost:${port}`, `http://rebound.example:${port}`]) {
      await page.goto(`${origin}/`);
      const said = await page.evaluate(ATTACK, gate);
      assert.equal(said.length, 7, `${origin} ${gate}: ${said}`);
    }
  }
  // The page itself under a name that leads here: for the browser, one origin with the gateway.
  const rebound = await page.goto(`http://rebound.example:${port}/works.list`);
  assert.equal(rebound.status(), 403);
  const status = await page.evaluate(() => fetch('/works.create', { method: 'POST', body: '{}' }).then(answer => answer.status));
  assert.equal(status, 403);
  assert.deepEqual(arrived, []);

  // What the machine's user asks for, by the address bar or from a program, does arrive.
  const typed = await page.goto(`http://127.0.0.1:${port}/works.get`);
  assert.equal(typed.status(), 200);
  const program = await fetch(`http://127.0.0.1:${port}/works.create`, { method: 'POST', body: '{}' });
  assert.equal(program.status, 200);
  assert.deepEqual(arrived.filter(url => url.startsWith('/works.')), ['/works.get', '/works.create']);
});
