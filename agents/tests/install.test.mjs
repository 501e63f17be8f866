// --install and --uninstall, below a directory instead of /.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import test from 'node:test';
import {
  KEY, accepted, agentScript, fakeCommands, fakeMachine, runAgent, startAgent, startReceiver, temporaryDirectory, until,
} from './support/harness.mjs';

const ADDRESS = 'https://defib.example.com';
const PROGRAM = 'usr/local/sbin/defib-agent';
const CONFIG = 'etc/defib/agent.conf';
const UNIT = 'etc/systemd/system/defib-agent.service';
const WANTS = 'etc/systemd/system/multi-user.target.wants/defib-agent.service';
const CRON = 'etc/cron.d/defib-agent';

function target(t, init) {
  const root = temporaryDirectory(t);
  fs.mkdirSync(path.join(root, init === 'systemd' ? 'run/systemd/system' : 'etc/cron.d'), { recursive: true });
  const run = (args, stdin, script) =>
    runAgent(t, { args, stdin, script, env: { DEFIB_INSTALL_ROOT: root } });
  const file = (name) => path.join(root, name);
  return { root, run, file, read: (name) => fs.readFileSync(file(name), 'utf8'), has: (name) => fs.existsSync(file(name)) };
}
const mode = (file) => (fs.statSync(file).mode & 0o777).toString(8);
const settings = (text) => text.split('\n').filter((line) => line && !line.startsWith('#'));

test('systemd: program, configuration, hardened and enabled unit; everything is named', async (t) => {
  const { run, file, read, has } = target(t, 'systemd');
  const result = await run(['--install', '--url', ADDRESS], `${KEY}\n`);
  assert.equal(result.code, 0, result.stderr);
  assert.equal(read(PROGRAM), fs.readFileSync(agentScript, 'utf8'));
  assert.equal(mode(file(PROGRAM)), '755');
  assert.equal(mode(file(CONFIG)), '600');
  assert.equal(mode(file('etc/defib')), '755');
  assert.deepEqual(settings(read(CONFIG)), [`DEFIB_URL=${ADDRESS}`, `DEFIB_KEY=${KEY}`]);
  const unit = read(UNIT);
  assert.match(unit, /^ExecStart=\/usr\/local\/sbin\/defib-agent --supervised --config \/etc\/defib\/agent\.conf$/m);
  for (const line of ['Restart=always', 'KillMode=mixed', 'OOMScoreAdjust=-900', 'NoNewPrivileges=yes', 'WantedBy=multi-user.target']) {
    assert.ok(unit.split('\n').includes(line), line);
  }
  assert.equal(fs.readlinkSync(file(WANTS)), '/etc/systemd/system/defib-agent.service');
  assert.equal(has(CRON), false);
  for (const name of [PROGRAM, CONFIG, UNIT]) assert.ok(result.stdout.includes(file(name)), name);
  assert.ok(!(result.stdout + result.stderr).includes(KEY));
});

test('systemd itself finds no fault with the unit', async (t) => {
  const { run, file, read } = target(t, 'systemd');
  await run(['--install', '--url', ADDRESS], KEY);
  // It checks that the program exists: here it does, under another name.
  const copy = path.join(temporaryDirectory(t), 'defib-agent.service');
  fs.writeFileSync(copy, read(UNIT).replace('ExecStart=/usr', `ExecStart=${file('usr')}`));
  const output = execFileSync('systemd-analyze', ['verify', '--man=no', copy], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });
  assert.equal(output, '');
});

test('installing again upgrades and keeps key and own lines; what is given replaces', async (t) => {
  const { run, file, read } = target(t, 'systemd');
  await run(['--install', '--url', ADDRESS], KEY);
  fs.writeFileSync(file(PROGRAM), 'an old version');
  fs.appendFileSync(file(CONFIG), '# mine\nDEFIB_CA_FILE=/etc/defib/ca.pem\n');
  const before = read(CONFIG);
  const again = await run(['--install'], '');
  assert.equal(again.code, 0, again.stderr);
  assert.equal(read(CONFIG), before);
  assert.equal(read(PROGRAM), fs.readFileSync(agentScript, 'utf8'));
  const keyFile = path.join(temporaryDirectory(t), 'key');
  fs.writeFileSync(keyFile, `${KEY}2\n`);
  const changed = await run(['--install', '--url=https://other.example', '--key-file', keyFile, '--report-seconds', '15'], '');
  assert.equal(changed.code, 0, changed.stderr);
  assert.deepEqual(settings(read(CONFIG)), [
    'DEFIB_URL=https://other.example', `DEFIB_KEY=${KEY}2`, 'DEFIB_CA_FILE=/etc/defib/ca.pem', 'DEFIB_REPORT_SECONDS=15',
  ]);
  assert.match(read(CONFIG), /# mine/);
  assert.equal(mode(file(CONFIG)), '600');
  // From the installed file itself
  const self = await run(['--install'], '', file(PROGRAM));
  assert.equal(self.code, 0, self.stderr);
  assert.equal(read(PROGRAM), fs.readFileSync(agentScript, 'utf8'));
});

test('without URL, key, root or a way to start it, nothing is written', async (t) => {
  const { run, has } = target(t, 'systemd');
  for (const [args, stdin, message] of [
    [['--install'], KEY, /--url/],
    [['--install', '--url', ADDRESS], '', /key/],
    [['--install', '--url', 'defib.example.com'], KEY, /DEFIB_URL/],
    [['--install', '--url', ADDRESS], 'two words', /not a key/],
    [['--install', '--url', ADDRESS, '--key-file', '/nonexistent'], '', /nonexistent/],
    [['--install', '--url'], KEY, /needs a value/],
  ]) {
    const result = await run(args, stdin);
    assert.equal(result.code, 2, `${args} ${result.stderr}`);
    assert.match(result.stderr, message);
  }
  const neither = temporaryDirectory(t);
  const result = await runAgent(t, { args: ['--install', '--url', ADDRESS], stdin: KEY, env: { DEFIB_INSTALL_ROOT: neither } });
  assert.equal(result.code, 1);
  assert.match(result.stderr, /neither systemd nor/);
  assert.deepEqual(fs.readdirSync(neither), []);
  assert.ok(!has('usr') && !has('etc'));
});

test('--uninstall removes all of it, says what, and may be repeated', async (t) => {
  for (const init of ['systemd', 'cron']) {
    const { root, run, has } = target(t, init);
    await run(['--install', '--url', ADDRESS], KEY);
    const result = await run(['--uninstall'], '');
    assert.equal(result.code, 0, result.stderr);
    for (const name of [PROGRAM, CONFIG, UNIT, WANTS, CRON, 'etc/defib']) assert.equal(has(name), false, name);
    for (const name of [PROGRAM, CONFIG, init === 'cron' ? CRON : UNIT]) {
      assert.ok(result.stdout.includes(`removed ${root}/${name}`), name);
    }
    const again = await run(['--uninstall'], '');
    assert.equal(again.code, 0);
    assert.doesNotMatch(again.stdout, /removed/);
  }
});

test('cron: started at boot and again within a minute after it died; --uninstall ends it in order', async (t) => {
  const { root, run, file, read } = target(t, 'cron');
  const receiver = await startReceiver(t, () => accepted(3600));
  const result = await run(['--install', '--url', receiver.url], KEY);
  assert.equal(result.code, 0, result.stderr);
  const jobs = settings(read(CRON)).filter((line) => !/^[A-Z]+=/.test(line));
  assert.deepEqual(jobs.map((line) => line.split(' root ')[0]), ['@reboot', '* * * * *']);
  assert.equal(mode(file(CRON)), '644');
  // What cron would run, with the paths of this root.
  const command = jobs[1].split(' root ')[1].split(' 2>&1')[0];
  const [program, ...args] = command.replaceAll(' /', ` ${root}/`).split(' ');
  const agent = startAgent(t, { script: root + program, args, env: fakeMachine(t).env });
  await until(() => receiver.requests.length === 1, 'it reports');
  assert.equal(receiver.reports()[0].supervised, true);
  const minute = await runAgent(t, { script: root + program, args, env: fakeMachine(t).env });
  assert.equal(minute.code, 0, 'the next minute finds it running');
  const removed = await run(['--uninstall'], '');
  assert.match(removed.stdout, new RegExp(`stopped the running agent \\(pid ${agent.pid}\\)`));
  await agent.end();
  assert.equal(receiver.reports('Stopping').length, 1);
});

test('a live systemd is told: reload, enable, restart; and at the end disable', async (t) => {
  // Without a root the paths are the machine's own, so only the calls are looked at.
  const log = path.join(temporaryDirectory(t), 'systemctl');
  const front = fakeCommands(t, { systemctl: `echo "$@" >>'${log}'` });
  const code = `. '${agentScript}'; put_file() { cat >/dev/null; }; remove_file() { :; }; INSTALL_ROOT=; install_unit`;
  const script = path.join(temporaryDirectory(t), 'code.sh');
  fs.writeFileSync(script, code);
  const result = await runAgent(t, { script, path: front });
  assert.equal(result.code, 0, result.stderr);
  assert.deepEqual(fs.readFileSync(log, 'utf8').trim().split('\n'), [
    'daemon-reload', '--quiet enable defib-agent.service', 'restart defib-agent.service',
  ]);
});
