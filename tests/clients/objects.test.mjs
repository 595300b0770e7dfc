// The objects of the simulator, as DevRev's own SDKs make, read, page, change and delete them through revgate.

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { promisify } from 'node:util';

import { CALL_MS, KEY, NO_FAULTS, TEST_MS, rig } from './rig.mjs';

const require = createRequire(import.meta.url);
const run = promisify(execFile);

/** How each family is called: names of the SDK's functions, the key of one and of several, what it is made of and what is changed. */
const FAMILIES = [
  {
    calls: ['worksCreate', 'worksGet', 'worksList', 'worksUpdate', 'worksDelete'],
    keys: ['work', 'works'],
    make: { type: 'issue', title: 'made', applies_to_part: 'PROD-1', owned_by: ['DEVU-1'], priority: 'p1' },
    change: { title: 'changed', owned_by: { set: ['DEVU-2'] }, stage: { name: 'completed' } },
    changed: { title: 'changed', state: 'closed' },
  },
  {
    calls: ['partsCreate', 'partsGet', 'partsList', 'partsUpdate', 'partsDelete'],
    keys: ['part', 'parts'],
    make: { type: 'feature', name: 'made', owned_by: ['DEVU-1'], parent_part: ['CAPL-1'] },
    change: { name: 'changed' },
  },
  {
    calls: ['accountsCreate', 'accountsGet', 'accountsList', 'accountsUpdate', 'accountsDelete'],
    keys: ['account', 'accounts'],
    make: { display_name: 'made', external_refs: ['made-1'], owned_by: ['DEVU-1'] },
    change: { display_name: 'changed' },
  },
  {
    calls: ['revOrgsCreate', 'revOrgsGet', 'revOrgsList', 'revOrgsUpdate', 'revOrgsDelete'],
    keys: ['rev_org', 'rev_orgs'],
    make: { display_name: 'made', account: 'ACC-1' },
    change: { display_name: 'changed' },
  },
  {
    calls: ['revUsersCreate', 'revUsersGet', 'revUsersList', 'revUsersUpdate', 'revUsersDelete'],
    keys: ['rev_user', 'rev_users'],
    make: { display_name: 'made', email: 'made@example.com', rev_org: 'REV-1' },
    change: { display_name: 'changed' },
  },
  {
    calls: ['tagsCreate', 'tagsGet', 'tagsList', 'tagsUpdate', 'tagsDelete'],
    keys: ['tag', 'tags'],
    make: { name: 'made' },
    change: { name: 'changed' },
  },
  {
    calls: [
      'timelineEntriesCreate',
      'timelineEntriesGet',
      'timelineEntriesList',
      'timelineEntriesUpdate',
      'timelineEntriesDelete',
    ],
    keys: ['timeline_entry', 'timeline_entries'],
    make: { type: 'timeline_comment', object: 'TKT-1', body: 'made' },
    list: { object: 'TKT-1' },
    change: { type: 'timeline_comment', body: 'changed' },
    changed: { body: 'changed' },
  },
  {
    calls: [
      'conversationsCreate',
      'conversationsGet',
      'conversationsList',
      'conversationsUpdate',
      'conversationsDelete',
    ],
    keys: ['conversation', 'conversations'],
    make: { type: 'support', title: 'made' },
    change: { title: 'changed' },
  },
  {
    calls: ['createArticle', 'getArticle', 'listArticles', 'updateArticle', 'deleteArticle'],
    keys: ['article', 'articles'],
    make: { title: 'made', owned_by: ['DEVU-1'], resource: { url: 'https://docs.example.com/made' } },
    change: { title: 'changed' },
  },
];

/** The ids on all pages, in the order of the list, by the GET form or the POST form. */
async function walk(list, key, asked, mode) {
  const [cursor, pages] = [mode === 'after' ? 'next_cursor' : 'prev_cursor', []];
  let next;
  do {
    const { data } = await list({ ...asked, limit: 7, mode, ...(next && { cursor: next }) });
    pages.push(data[key].map(({ id }) => id));
    next = data[cursor];
    assert.ok(pages.length < 100, 'the pages never end');
  } while (next);
  return (mode === 'after' ? pages : pages.reverse()).flat();
}

for (const alias of ['sdk-old', 'sdk-new']) {
  const { client } = require(alias);
  const bounded = () => ({ signal: AbortSignal.timeout(CALL_MS) });

  describe(`@devrev/typescript-sdk ${require(`./node_modules/${alias}/package.json`).version}`, () => {
    test('objects of every family', { timeout: TEST_MS }, async (t) => {
      const { proxy } = await rig(t, NO_FAULTS);
      const sdk = client.setupBeta({ endpoint: proxy, token: KEY });
      const call = (name, asked) => sdk[name](asked, bounded());

      for (const { calls, keys, make, list = {}, change, changed = change } of FAMILIES) {
        const [create, get, all, update, remove] = calls;
        const [one, many] = keys;
        const made = (await call(create, make)).data[one];
        assert.ok(made.id.startsWith('don:'), create);
        const { id } = made;
        assert.deepEqual((await call(get, { id })).data[one], made, get);
        assert.deepEqual((await call(`${get}Post`, { id })).data[one], made, `${get}Post`);

        for (const form of [all, `${all}Post`]) {
          const forward = await walk((asked) => call(form, asked), many, list, 'after');
          assert.equal(new Set(forward).size, forward.length, `${form}: one twice`);
          assert.equal(forward.filter((other) => other === id).length, 1, form);
          assert.ok(forward.length > 1, form);
          const backward = await walk((asked) => call(form, asked), many, list, 'before');
          assert.deepEqual(backward, forward, form);
        }

        const after = (await call(update, { id, ...change })).data[one];
        for (const [name, value] of Object.entries(changed)) assert.deepEqual(after[name], value, `${update} ${name}`);
        assert.deepEqual((await call(get, { id })).data[one], after);
        assert.deepEqual((await call(remove, { id })).data, {}, remove);
        await assert.rejects(call(get, { id }), ({ response }) => {
          assert.equal(response.status, 404);
          assert.equal(response.data.type, 'not_found');
          return true;
        });
      }
      const users = (await call('devUsersList', { state: ['active'] })).data.dev_users;
      assert.ok(users.length > 1);
      assert.deepEqual((await call('devUsersGet', { id: users[1].id })).data.dev_user, users[1]);
    });

    test("errors are DevRev's", { timeout: TEST_MS }, async (t) => {
      const { proxy } = await rig(t, NO_FAULTS);
      const sdk = client.setupBeta({ endpoint: proxy, token: KEY });
      const rows = [
        ['worksCreate', { type: 'issue' }, 400, 'missing_required_field', 'title'],
        ['worksGet', { id: 'ACC-1' }, 400, 'unexpected_id_type', 'id'],
        ['worksUpdate', { id: 'TKT-1', severity: 'huge' }, 400, 'invalid_enum_value', 'severity'],
        ['accountsCreate', { display_name: 'a', external_refs: ['crm-1'] }, 409, 'conflict', undefined],
        ['tagsDelete', { id: 'TAG-999' }, 404, 'not_found', undefined],
      ];
      for (const [name, asked, status, type, field] of rows) {
        await assert.rejects(sdk[name](asked, bounded()), ({ response }) => {
          assert.equal(response.status, status, name);
          assert.equal(response.data.type, type, name);
          assert.equal(response.data.field_name, field, name);
          return true;
        });
      }
      const stranger = client.setupBeta({ endpoint: proxy, token: 'a-wrong-key' });
      await assert.rejects(stranger.worksGet({ id: 'TKT-1' }, bounded()), (error) => error.response?.status === 401);
    });
  });
}

// It takes https alone, so that the gateway has a certificate.
describe('devrev-python-sdk', { skip: process.env.PYTHON_SDK ? false : 'run.sh found no python3 with venv, or no openssl' }, () => {
  test('objects, pages and errors', { timeout: TEST_MS }, async (t) => {
    const directory = await mkdtemp(join(tmpdir(), 'revgate-python-'));
    t.after(() => rm(directory, { recursive: true, force: true }));
    const [cert, key] = [join(directory, 'cert.pem'), join(directory, 'key.pem')];
    const subject = ['-subj', '/CN=localhost', '-addext', 'subjectAltName=IP:127.0.0.1', '-days', '2'];
    const curve = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes'];
    await run('openssl', ['req', '-x509', ...curve, ...subject, '-keyout', key, '-out', cert]);
    const { proxy } = await rig(t, NO_FAULTS, { cert, key });
    const env = { PATH: process.env.PATH, SSL_CERT_FILE: cert };
    const script = join(import.meta.dirname, 'python_sdk.py');
    const { stdout } = await run(process.env.PYTHON_SDK, [script, proxy, KEY], { env, timeout: TEST_MS });
    assert.match(stdout, /^all good$/m);
  });
});
