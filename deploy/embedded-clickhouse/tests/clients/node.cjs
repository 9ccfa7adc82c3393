// @clickhouse/client against the port given as argument: JSONEachRow, gzip both ways, parameters, settings, errors.

const assert = require('node:assert');
const { createClient } = require('@clickhouse/client');

async function check(compression) {
  const client = createClient({
    url: `http://127.0.0.1:${process.argv[2]}`,
    database: 'test',
    compression: { request: compression, response: compression },
  });
  assert.ok((await client.ping()).success);
  await client.command({ query: 'DROP TABLE IF EXISTS node' });
  await client.command({
    query: `CREATE TABLE node (id UInt64, name String) ENGINE = MergeTree ORDER BY id
            SETTINGS non_replicated_deduplication_window = 100`,
  });
  const values = Array.from({ length: 50_000 }, (_, id) => ({ id, name: `name ${id}` }));
  const inserted = await client.insert({ table: 'node', values, format: 'JSONEachRow' });
  assert.strictEqual(inserted.summary.written_rows, '50000');

  const rows = await client.query({ query: 'SELECT id, name FROM node ORDER BY id', format: 'JSONEachRow' });
  const found = await rows.json();
  assert.strictEqual(found.length, 50_000);
  assert.strictEqual(found[7].name, 'name 7');

  const one = await client.query({
    query: 'SELECT name FROM node WHERE id = {id: UInt64}',
    format: 'JSON',
    query_params: { id: 3 },
  });
  assert.strictEqual((await one.json()).data[0].name, 'name 3');

  const setting = await client.query({
    query: "SELECT getSetting('max_threads') AS threads",
    clickhouse_settings: { max_threads: 3 },
    format: 'JSONEachRow',
  });
  assert.strictEqual(Number((await setting.json())[0].threads), 3);

  await assert.rejects(client.query({ query: 'SELECT * FROM nosuch' }), { code: '60', type: 'UNKNOWN_TABLE' });

  for (let attempt = 0; attempt < 2; attempt += 1) {
    await client.insert({
      table: 'node',
      values: [{ id: 1, name: 'again' }],
      format: 'JSONEachRow',
      clickhouse_settings: { insert_deduplication_token: 'one', async_insert: 0 },
    });
  }
  const count = await client.query({ query: 'SELECT count() AS count FROM node', format: 'JSONEachRow' });
  assert.strictEqual(Number((await count.json())[0].count), 50_001);
  await client.close();
}

check(true)
  .then(() => check(false))
  .catch((error) => {
    console.error(error);
    process.exitCode = 1;
  });
