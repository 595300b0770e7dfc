// DevRev's own TypeScript SDK, the last version that knows only the deprecated names and a new one, through revgate.

import assert from 'node:assert/strict';
import { createRequire } from 'node:module';
import { describe, test } from 'node:test';

import { CALL_MS, KEY, NO_FAULTS, TEST_MS, TOKEN, received, rig } from './rig.mjs';

const require = createRequire(import.meta.url);

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
