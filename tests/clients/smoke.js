// ioredis through an address: values, pipelines, transactions, scripts, pubsub, blocking, errors.
// Run by scripts/clients; the only argument is a redis:// URL. Ends with 0 and one line, or with an error.

const assert = require('node:assert/strict');
const Redis = require('ioredis');

async function main() {
  const url = process.argv[2];
  const redis = new Redis(url);
  await redis.flushall();
  const blob = Buffer.alloc(1 << 20, 'bgsafe');
  assert.equal(await redis.set('k', blob), 'OK');
  assert.deepEqual(await redis.getBuffer('k'), blob);
  assert.equal(await redis.get('none'), null);
  await redis.hset('h', { a: 1, b: 2 });
  assert.deepEqual({ ...(await redis.hgetall('h')) }, { a: '1', b: '2' });
  const many = await Promise.all(Array.from({ length: 2000 }, (_, i) => redis.set(`p${i}`, i).then(() => redis.get(`p${i}`))));
  assert.deepEqual(many, Array.from({ length: 2000 }, (_, i) => String(i)));
  assert.deepEqual(await redis.pipeline().incr('n').get('n').exec(), [[null, 1], [null, '1']]);
  assert.deepEqual(await redis.multi().incr('n').rpush('l', 1, 2).lrange('l', 0, -1).exec(), [[null, 2], [null, 2], [null, ['1', '2']]]);
  redis.defineCommand('both', { numberOfKeys: 1, lua: 'return {KEYS[1], ARGV[1]}' });
  assert.deepEqual(await redis.both('a', 'b'), ['a', 'b']);
  await assert.rejects(redis.incr('h'), /WRONGTYPE/);

  const listener = redis.duplicate();
  const message = new Promise((resolve) => listener.on('message', (channel, text) => resolve([channel, text])));
  const pattern = new Promise((resolve) => listener.on('pmessage', (p, channel, text) => resolve([p, channel, text])));
  await listener.subscribe('ch');
  await listener.psubscribe('p*');
  assert.equal(await redis.publish('ch', 'one'), 1);
  assert.equal(await redis.publish('px', 'two'), 1);
  assert.deepEqual(await message, ['ch', 'one']);
  assert.deepEqual(await pattern, ['p*', 'px', 'two']);

  const waiter = redis.duplicate();
  const job = waiter.blpop('queue', 5);
  await redis.rpush('queue', 'job');
  assert.deepEqual(await job, ['queue', 'job']);
  const stream = redis.scanStream({ match: 'p1*' });
  let seen = 0;
  for await (const keys of stream) seen += keys.length;
  assert.ok(seen >= 1111);
  for (const client of [redis, listener, waiter]) await client.quit();
  console.log(`ioredis ${require('ioredis/package.json').version}`);
}

setTimeout(() => { console.error('not done in 30 s'); process.exit(1); }, 30000).unref();
main().catch((error) => { console.error(error); process.exit(1); });
