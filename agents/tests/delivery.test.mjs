// What the agent does with answers, and without them.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import test from 'node:test';
import {
  KEY, accepted, closedPort, fakeMachine, problem, recordedSleep, reporting, runAgent, startAgent, startReceiver,
  temporaryDirectory, until, withFunctions, writeConfig,
} from './support/harness.mjs';

/** Runs an agent with a recorded sleep until it has slept `count` times; the first is the CPU window. */
async function sleepsOf(t, receiver, count, options = {}) {
  const { commands, durations } = recordedSleep(t, options.duringSleep);
  const agent = startAgent(t, reporting(t, receiver, { path: commands, ...options }));
  await until(() => durations().length > count, `${count} sleeps`);
  agent.kill('SIGTERM');
  await agent.end();
  return { slept: durations().slice(1, count + 1), agent };
}
const within = (value, low, high) => assert.ok(value >= low && value <= high, `${value} is not in ${low}..${high}`);

test('while the server fails: 1, 2, 4 ... s, never more than the period; then the period again', async (t) => {
  let failing = true;
  const receiver = await startReceiver(t, (_, number) => {
    failing = number <= 6;
    return failing ? { status: 500, body: 'broken' } : accepted(10);
  });
  const { slept, agent } = await sleepsOf(t, receiver, 8, { settings: { DEFIB_REPORT_SECONDS: 10 } });
  for (const [i, full] of [1, 2, 4, 8].entries()) within(slept[i], full * 0.75, full);
  for (const i of [4, 5]) within(slept[i], 9, 11);
  within(slept[6], 1, 10); // the first accepted one: a random phase
  within(slept[7], 9, 11);
  assert.equal(agent.log().filter((line) => line.includes('answered 500')).length, 1, agent.stderr());
  assert.match(agent.stderr(), /accepted again \(attempts that failed: 6\)/);
});

test('while nobody listens it retries the same way, and says so once', async (t) => {
  const nobody = { url: `http://127.0.0.1:${await closedPort()}` };
  const { slept, agent } = await sleepsOf(t, nobody, 5, { settings: { DEFIB_REPORT_SECONDS: 3600 } });
  for (const [i, full] of [1, 2, 4, 8, 16].entries()) within(slept[i], full * 0.75, full);
  assert.equal(agent.log().filter((line) => line.includes('not accepted')).length, 1, agent.stderr());
});

test('after a failure the newest sample is sent, once: nothing is queued', async (t) => {
  const machine = fakeMachine(t);
  machine.write('uptime', '0');
  const receiver = await startReceiver(t, (_, number) => (number <= 4 ? { status: 502 } : accepted(3600)));
  // Every sleep ages the machine.
  const clock = path.join(machine.root, 'uptime');
  const duringSleep = `n=$(($(cat '${clock}') + 1)); echo $n >'${clock}'; echo "$n.00 0" >'${machine.root}/proc/uptime'`;
  await sleepsOf(t, receiver, 6, { machine, duringSleep });
  const uptimes = receiver.reports('Running').map((report) => report.uptimeSeconds);
  assert.deepEqual(uptimes.slice(0, 6), [1, 2, 3, 4, 5, 6]);
});

test('nextReportSeconds is obeyed from the answer that says it, within 1 and 3600', async (t) => {
  const told = [7, 7, 200, 0, '99999999999999999999', -5];
  const receiver = await startReceiver(t, (_, number) => ({
    status: 200,
    body: `{ "accepted" : 1,\n "nextReportSeconds" : ${told[number - 1] ?? 7} }`,
  }));
  const { slept } = await sleepsOf(t, receiver, 6);
  within(slept[0], 1, 7); // random phase
  within(slept[1], 6.3, 7.7);
  within(slept[2], 180, 220);
  within(slept[3], 0.9, 1.1);
  within(slept[4], 3240, 3960);
  within(slept[5], 3240, 3960); // nonsense changes nothing
});

test('a refusal is logged once, with what the server says, and tried again at the period', async (t) => {
  const answers = [
    problem(401, 'this key is not valid for any VM'), problem(401, 'this key is not valid for any VM'),
    problem(401, 'this key is not valid for any VM'), problem(422, 'must be a "uuid"', 'bootID'),
    problem(422, 'must be a "uuid"', 'bootID'), accepted(20), problem(401, 'this key is not valid for any VM'),
  ];
  const receiver = await startReceiver(t, (_, number) => answers[number - 1] ?? accepted(20));
  const { slept, agent } = await sleepsOf(t, receiver, 7, { settings: { DEFIB_REPORT_SECONDS: 20 } });
  for (const i of [0, 1, 2, 3, 4, 6]) within(slept[i], 18, 22);
  const refusals = agent.log().filter((line) => line.includes('not accepted'));
  assert.equal(refusals.length, 3, agent.stderr());
  assert.match(refusals[0], /answered 401: this key is not valid for any VM$/);
  assert.match(refusals[1], /answered 422: must be a "uuid" \(field: bootID\)$/);
  assert.match(refusals[2], /answered 401/);
});

test('429 and 503: Retry-After is kept, but not beyond the period', async (t) => {
  const answers = [
    problem(429, 'too many', undefined, { 'Retry-After': '5' }), problem(503, 'no leader', undefined, { 'Retry-After': '3' }),
    problem(503, 'no leader', undefined, { 'Retry-After': '86400' }),
    problem(503, 'no leader', undefined, { 'Retry-After': 'Wed, 21 Oct 2065 07:28:00 GMT' }), // 4th failure: 8 s
    problem(429, 'too many', undefined, { 'Retry-After': '0' }),
  ];
  const receiver = await startReceiver(t, (_, number) => answers[number - 1] ?? accepted(10));
  const { slept } = await sleepsOf(t, receiver, 5, { settings: { DEFIB_REPORT_SECONDS: 10 } });
  within(slept[0], 5, 5.5);
  within(slept[1], 3, 3.3);
  within(slept[2], 9, 11);
  within(slept[3], 6, 8);
  within(slept[4], 1, 1.1);
});

test('redirects are not followed: they would carry the key elsewhere', async (t) => {
  const elsewhere = await startReceiver(t);
  const receiver = await startReceiver(t, () => ({ status: 308, headers: { Location: `${elsewhere.url}/api/health/report` } }));
  const result = await runAgent(t, reporting(t, receiver, { args: ['--once'] }));
  assert.equal(result.code, 1);
  assert.match(result.stderr, new RegExp(`308.*${elsewhere.port}`));
  assert.equal(elsewhere.requests.length, 0);
});

test('200 from something that is not Defib is no success', async (t) => {
  for (const body of ['<html>Please sign in</html>', '{"accepted":0}', '']) {
    const receiver = await startReceiver(t, () => ({ status: 200, body }));
    const result = await runAgent(t, reporting(t, receiver, { args: ['--once'] }));
    assert.equal(result.code, 1, body);
    assert.match(result.stderr, /not as Defib does/);
  }
});

test('an endless answer is cut off and does no harm', async (t) => {
  const receiver = await startReceiver(t, () => ({ status: 400, body: 'x'.repeat(5_000_000) }));
  const result = await runAgent(t, reporting(t, receiver, { args: ['--once'] }));
  assert.equal(result.code, 1);
  assert.match(result.stderr, /answered 400/);
  assert.ok(result.stderr.length < 1000);
});

test('what a server says cannot show the key nor control a terminal', async (t) => {
  const receiver = await startReceiver(t, () => problem(400, `you sent Bearer ${KEY} \u001b[2J\nnext`));
  const result = await runAgent(t, reporting(t, receiver, { args: ['--once'] }));
  assert.match(result.stderr, /you sent Bearer \[key\]/);
  assert.ok(!result.stderr.includes(KEY));
  assert.equal(result.stderr.trim().split('\n').at(-1).includes('\u001b'), false);
});

test('interim answers and the answer of a proxy come before the one that counts', async (t) => {
  const { stdout } = await withFunctions(t, String.raw`
    answer=$'HTTP/1.1 200 Connection established\r\nProxy: x\r\n\r\nHTTP/1.1 100 Continue\r\n\r\nHTTP/2 503 \r\nretry-after: 7\r\nContent-Type: x\r\n\r\n{"detail":"a\\"b"}\n0'
    read_answer "$answer"; judge_answer
    printf '%s\n' "$OUTCOME" "$HTTP_STATUS" "$RETRY_AFTER" "$ANSWER"`);
  assert.deepEqual(stdout.trim().split('\n'), ['busy', '503', '7', '{"detail":"a\\"b"}']);
});

test('TLS: a certificate of an own CA needs DEFIB_CA_FILE, and the error says so', async (t) => {
  const directory = temporaryDirectory(t);
  const [key, certificate] = ['key.pem', 'certificate.pem'].map((name) => path.join(directory, name));
  execFileSync('openssl', ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes',
    '-keyout', key, '-out', certificate, '-days', '2', '-subj', '/CN=defib', '-addext', 'subjectAltName=IP:127.0.0.1'],
  { stdio: 'ignore' });
  const receiver = await startReceiver(t, undefined, { key: fs.readFileSync(key), cert: fs.readFileSync(certificate) });
  const refused = await runAgent(t, reporting(t, receiver, { args: ['--once'] }));
  assert.equal(refused.code, 1);
  assert.match(refused.stderr, /DEFIB_CA_FILE/);
  assert.equal(receiver.requests.length, 0);
  const trusted = await runAgent(t, reporting(t, receiver, { args: ['--once'], settings: { DEFIB_CA_FILE: certificate } }));
  assert.equal(trusted.code, 0, trusted.stderr);
});

test('the usual proxy variables are honoured', async (t) => {
  const proxy = await startReceiver(t);
  const machine = fakeMachine(t);
  const config = writeConfig(t, { DEFIB_URL: 'http://defib.test', DEFIB_KEY: KEY });
  const result = await runAgent(t, { args: ['--once', '--config', config], env: { ...machine.env, http_proxy: proxy.url } });
  assert.equal(result.code, 0, result.stderr);
  assert.equal(proxy.requests[0].url, 'http://defib.test/api/health/report');
});
