// Starting, stopping, settings and what must stay secret.
import assert from 'node:assert/strict';
import fs from 'node:fs';
import path from 'node:path';
import test from 'node:test';
import {
  KEY, accepted, closedPort, descendants, fakeCommands, fakeMachine, problem, processes, reporting, runAgent, startAgent,
  startReceiver, temporaryDirectory, until, writeConfig,
} from './support/harness.mjs';
import { reportErrors } from './support/schema.mjs';

for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP']) {
  test(`${signal} during the sleep: one Stopping, exit 0, nothing left behind`, async (t) => {
    // The sleep lasts up to an hour: only an interrupted one ends within the test's deadline.
    const receiver = await startReceiver(t, () => accepted(3600));
    const agent = startAgent(t, reporting(t, receiver, { settings: { DEFIB_REPORT_SECONDS: 3600 } }));
    await until(() => agent.stderr().includes('first report accepted'), 'the first report');
    await until(() => descendants(agent).some((p) => p.cmdline.startsWith('sleep')), 'the agent sleeps');
    agent.kill(signal);
    await agent.end();
    assert.deepEqual(agent.result, { code: 0, signal: null });
    assert.equal(receiver.reports('Running').length, 1);
    const goodbyes = receiver.reports('Stopping');
    assert.equal(goodbyes.length, 1);
    assert.deepEqual(reportErrors(goodbyes[0]), []);
    assert.equal(goodbyes[0].disks.length, 1, 'with the disks of the last report');
    await until(() => descendants(agent).length === 0, 'no process is left');
    assert.doesNotMatch(agent.stderr(), /line \d+:|Terminated|Killed/);
  });
}

test('a stop in the middle of a request ends that request and says goodbye', async (t) => {
  // The receiver never answers a Running.
  const receiver = await startReceiver(t, (report) => (report.state === 'Running' ? null : accepted()));
  const agent = startAgent(t, reporting(t, receiver));
  await until(() => receiver.requests.length === 1, 'the request is under way');
  agent.kill('SIGTERM');
  await agent.end();
  assert.equal(agent.result.code, 0);
  assert.deepEqual(receiver.reports().map((r) => r.state), ['Running', 'Stopping']);
  await until(() => descendants(agent).length === 0, 'no process is left');
});

test('a server that answers nothing does not hold up a shutdown', async (t) => {
  const receiver = await startReceiver(t, (report) => (report.state === 'Running' ? accepted(3600) : null));
  // The promise is in the arguments of the request: connecting and the whole of it are bounded.
  const log = path.join(temporaryDirectory(t), 'curl-arguments');
  const front = fakeCommands(t, { curl: `echo "$@" >>'${log}'; exec /usr/bin/curl "$@"` });
  const agent = startAgent(t, reporting(t, receiver, { path: front }));
  await until(() => agent.stderr().includes('first report accepted'), 'the first report');
  agent.kill('SIGTERM');
  await agent.end();
  assert.equal(agent.result.code, 0);
  assert.match(agent.stderr(), /could not be told/);
  assert.match(fs.readFileSync(log, 'utf8').trim().split('\n').at(-1), /--connect-timeout 2 --max-time 2/);
  await until(() => descendants(agent).length === 0, 'no process is left');
});

test('a stop before the first report, and one while a disk hangs, is as quick', async (t) => {
  const early = await startReceiver(t);
  const first = startAgent(t, reporting(t, early));
  await until(() => first.stderr().includes('reports to'), 'the agent runs');
  first.kill('SIGTERM');
  await first.end();
  assert.deepEqual(early.reports().map((r) => r.state).slice(-1), ['Stopping']);

  const receiver = await startReceiver(t);
  const front = fakeCommands(t, { stat: '[ "$1" = -f ] && exec /bin/sleep 600; exec /usr/bin/stat "$@"' });
  const agent = startAgent(t, reporting(t, receiver, { path: front }));
  await until(() => descendants(agent).some((p) => p.cmdline.includes('sleep\x00600')), 'a disk hangs');
  agent.kill('SIGTERM');
  await agent.end();
  assert.equal(agent.result.code, 0);
  assert.deepEqual(receiver.reports().map((r) => r.state), ['Stopping']);
});

test('during a request the key is on no command line and in no environment', async (t) => {
  for (const fromEnvironment of [false, true]) {
    const receiver = await startReceiver(t, () => null);
    const options = reporting(t, receiver);
    if (fromEnvironment) {
      options.args = [];
      options.env = { ...options.env, DEFIB_URL: receiver.url, DEFIB_KEY: KEY };
    }
    const agent = startAgent(t, options);
    await until(() => receiver.requests.length === 1, 'the request is under way');
    assert.equal(receiver.requests[0].headers.authorization, `Bearer ${KEY}`);
    const all = processes();
    assert.ok(all.some((p) => p.environ.includes(agent.mark) && p.cmdline.startsWith('curl')), 'curl is seen');
    for (const { pid, cmdline, environ } of all) {
      assert.ok(!cmdline.includes(KEY), `command line of ${pid}`);
      // The agent's own start environment is what the caller made it.
      if (pid !== agent.pid) assert.ok(!environ.includes(KEY), `environment of ${pid}: ${cmdline}`);
    }
    const report = receiver.requests[0].body;
    assert.ok(all.every((p) => !p.cmdline.includes(report)), 'nor is the report');
    agent.kill('SIGTERM');
    await agent.end();
    assert.ok(!agent.stderr().includes(KEY));
  }
});

test('one agent per configuration; the lock ends with the agent, however it ends', async (t) => {
  const receiver = await startReceiver(t, () => accepted(3600));
  const options = reporting(t, receiver);
  const agent = startAgent(t, options);
  await until(() => receiver.requests.length === 1, 'the first agent reports');
  const second = await runAgent(t, options);
  assert.equal(second.code, 1);
  assert.match(second.stderr, /already running/);
  const watchdog = await runAgent(t, { ...options, args: [...options.args, '--if-not-running'] });
  assert.equal(watchdog.code, 0);
  assert.doesNotMatch(watchdog.stderr, /running/);
  const once = await runAgent(t, { ...options, args: [...options.args, '--once'] });
  assert.equal(once.code, 0, 'looking is always possible');
  await until(() => descendants(agent).some((p) => p.cmdline.startsWith('sleep')), 'it sleeps');
  const sleeper = descendants(agent).find((p) => p.cmdline.startsWith('sleep'));
  agent.kill('SIGKILL');
  await agent.exited;
  assert.ok(fs.existsSync(`/proc/${sleeper.pid}`), 'its sleep lives on, but holds no lock');
  const next = startAgent(t, options);
  await until(() => next.stderr().includes('first report accepted'), 'the next agent starts');
  next.kill('SIGTERM');
  await next.end();
  process.kill(sleeper.pid, 'SIGKILL');
});

test('--once: 0 when accepted; 1 with the reason when refused or unreachable; 2 without settings', async (t) => {
  const good = await runAgent(t, reporting(t, await startReceiver(t, () => accepted(45)), { args: ['--once'] }));
  assert.equal(good.code, 0);
  assert.match(good.stdout, /^accepted by .*; next report in 45 s$/m);
  const refused = await runAgent(t, reporting(t, await startReceiver(t, () => problem(401, 'unknown key')), { args: ['--once'] }));
  assert.equal(refused.code, 1);
  assert.match(refused.stderr, /401: unknown key/);
  const unreachable = await runAgent(t, reporting(t, { url: `http://127.0.0.1:${await closedPort()}` }, { args: ['--once'] }));
  assert.equal(unreachable.code, 1);
  assert.match(unreachable.stderr, /\(7\)/);
  const { env } = fakeMachine(t);
  for (const [settings, message] of [
    [{ DEFIB_KEY: KEY }, /DEFIB_URL/],
    [{ DEFIB_URL: 'ftp://x', DEFIB_KEY: KEY }, /DEFIB_URL/],
    [{ DEFIB_URL: 'https://x" \\', DEFIB_KEY: KEY }, /DEFIB_URL/],
    [{ DEFIB_URL: 'https://x' }, /no key/],
    [{ DEFIB_URL: 'https://x', DEFIB_KEY: 'a"b' }, /no key/],
    [{ DEFIB_URL: 'https://x', DEFIB_KEY_FILE: '/nonexistent' }, /DEFIB_KEY_FILE/],
    [{ DEFIB_URL: 'https://x', DEFIB_KEY: KEY, DEFIB_CA_FILE: '/nonexistent' }, /DEFIB_CA_FILE/],
    [{ DEFIB_URL: 'https://x', DEFIB_KEY: KEY, DEFIB_REPORT_SECONDS: 'soon' }, /DEFIB_REPORT_SECONDS/],
  ]) {
    const result = await runAgent(t, { args: ['--once', '--config', writeConfig(t, settings)], env });
    assert.equal(result.code, 2, JSON.stringify(settings));
    assert.match(result.stderr, message);
    assert.ok(!result.stderr.includes(KEY));
  }
  assert.equal((await runAgent(t, { args: ['--once', '--config', '/nonexistent'], env })).code, 2);
  assert.equal((await runAgent(t, { args: ['--typo'] })).code, 2);
});

test('the configuration is parsed, never run; what is odd in it is named by line', async (t) => {
  const receiver = await startReceiver(t);
  const directory = temporaryDirectory(t);
  const config = path.join(directory, 'agent.conf');
  fs.writeFileSync(config, [
    '# comment', '', `  DEFIB_URL = "${receiver.url}/"\r`, `DEFIB_KEY='${KEY}'`, `DEFIB_KEYS=${KEY}`,
    `touch ${directory}/ran`, `DEFIB_REPORT_SECONDS=$(touch ${directory}/ran)`, 'DEFIB_REPORT_SECONDS=0',
  ].join('\n'));
  fs.chmodSync(config, 0o644);
  const result = await runAgent(t, { args: ['--once', '--config', config], env: fakeMachine(t).env });
  assert.equal(result.code, 0, result.stderr);
  assert.equal(receiver.requests[0].url, '/api/health/report');
  assert.match(result.stderr, /line 5: unknown setting/);
  assert.match(result.stderr, /line 6: unknown setting/);
  assert.match(result.stderr, /DEFIB_REPORT_SECONDS is 0: using 1/);
  assert.match(result.stderr, /mode is 644: chmod 0600/);
  assert.match(result.stderr, /not encrypted/);
  assert.ok(!result.stderr.includes(KEY));
  assert.ok(!fs.existsSync(path.join(directory, 'ran')));
  fs.chmodSync(config, 0o600);
  const closed = await runAgent(t, { args: ['--once', '--config', config], env: fakeMachine(t).env });
  assert.doesNotMatch(closed.stderr, /chmod/);
});

test('a key file that is replaced counts from the next report on', async (t) => {
  const file = path.join(temporaryDirectory(t), 'key');
  fs.writeFileSync(file, `${KEY}\n`, { mode: 0o600 });
  const receiver = await startReceiver(t, () => accepted(1));
  const config = writeConfig(t, { DEFIB_URL: receiver.url, DEFIB_KEY_FILE: file, DEFIB_REPORT_SECONDS: 1 });
  const agent = startAgent(t, { args: ['--config', config], env: fakeMachine(t).env });
  await until(() => receiver.requests.length > 0, 'a report');
  assert.equal(receiver.requests[0].headers.authorization, `Bearer ${KEY}`);
  fs.writeFileSync(`${file}.new`, `${KEY}2`);
  fs.renameSync(`${file}.new`, file);
  await until(() => receiver.requests.at(-1).headers.authorization === `Bearer ${KEY}2`, 'the new key');
  fs.rmSync(file);
  const count = receiver.requests.length;
  await until(() => receiver.requests.length > count + 1, 'more reports');
  assert.equal(receiver.requests.at(-1).headers.authorization, `Bearer ${KEY}2`);
  agent.kill('SIGTERM');
  await agent.end();
});

test('reporting for long leaks neither file descriptors nor processes', async (t) => {
  const receiver = await startReceiver(t, () => accepted(1));
  const front = fakeCommands(t, { sleep: 'exec /bin/sleep 0.01' });
  const agent = startAgent(t, reporting(t, receiver, { path: front, settings: { DEFIB_REPORT_SECONDS: 1 } }));
  const descriptors = () => fs.readdirSync(`/proc/${agent.pid}/fd`).length;
  await until(() => receiver.requests.length >= 5, 'five reports');
  const before = descriptors();
  await until(() => receiver.requests.length >= 60, 'sixty reports');
  // Some are open for a moment while a request is made.
  assert.ok(descriptors() <= before + 6, `${before} -> ${descriptors()}`);
  assert.ok(descendants(agent).length <= 6);
  agent.kill('SIGTERM');
  await agent.end();
});
