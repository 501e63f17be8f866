// What a report says.
import assert from 'node:assert/strict';
import fs from 'node:fs';
import path from 'node:path';
import test from 'node:test';
import {
  BOOT_ID, KEY, MACHINE_UUID, fakeCommands, fakeMachine, processes, recordedSleep, reporting, runAgent,
  startAgent, startReceiver, temporaryDirectory, until, withFunctions,
} from './support/harness.mjs';
import { reportErrors } from './support/schema.mjs';

const print = async (t, options) => {
  const result = await runAgent(t, { ...options, args: ['--print', ...(options.args ?? [])] });
  assert.equal(result.code, 0, result.stderr);
  return { ...result, report: JSON.parse(result.stdout) };
};

test('a report has the request line, the headers and the body that the schema asks for', async (t) => {
  const receiver = await startReceiver(t);
  const result = await runAgent(t, reporting(t, receiver, { args: ['--once'] }));
  assert.equal(result.code, 0, result.stderr);
  assert.equal(receiver.requests.length, 1);
  const { method, url, headers, report } = receiver.requests[0];
  assert.equal(`${method} ${url}`, 'POST /api/health/report');
  assert.equal(headers.authorization, `Bearer ${KEY}`);
  assert.equal(headers['content-type'], 'application/json');
  assert.match(headers['user-agent'], /^defib-agent\/\d+\.\d+\.\d+$/);
  assert.deepEqual(reportErrors(report), []);
  assert.equal(report.hostname, 'web-1');
  assert.equal(report.machineUUID, MACHINE_UUID);
  assert.equal(report.bootID, BOOT_ID);
  assert.equal(report.uptimeSeconds, 12345.67);
  assert.equal(report.state, 'Running');
  assert.equal(report.supervised, false);
  assert.equal(report.memoryTotalBytes, 2048000 * 1024);
  assert.equal(report.memoryUsedBytes, 1024000 * 1024);
  assert.equal(headers['user-agent'], `defib-agent/${report.agentVersion}`);
  assert.ok(Math.abs(Date.parse(report.sentAt) - Date.now()) < 3_600_000, 'sentAt is UTC');
});

test('the report of the machine that runs this test is valid too, without key or configuration', async (t) => {
  const { report, stdout } = await print(t, {});
  // Only a machine without SMBIOS leaves it out, which the schema allows.
  assert.deepEqual(reportErrors(report), []);
  assert.ok(report.memoryTotalBytes > 0);
  assert.ok(stdout.split('\n').length > 10, 'one field a line');
});

test('CPU: waiting is idle, stolen is busy, guest time counts once', async (t) => {
  const machine = fakeMachine(t);
  machine.write('proc/stat', 'cpu  1000 100 500 8000 100 10 20 30 400 50\ncpu0 1 2 3 4\n');
  // +100 user (all of it guest), +100 nice, +50 system, +500 idle, +200 iowait, +20 irq, +10 softirq,
  // +20 steal: 300 of 1000 ticks busy
  machine.write('proc/stat.later', 'cpu  1100 200 550 8500 300 30 30 50 500 50\n');
  const later = `cp '${machine.root}/proc/stat.later' '${machine.root}/proc/stat'`;
  const { commands } = recordedSleep(t, later);
  const { report } = await print(t, { env: machine.env, path: commands });
  assert.equal(report.cpuPercent, 30);
});

test('CPU: counters that run backwards or stand still give no nonsense', async (t) => {
  for (const [later, wanted] of [
    // iowait -50, user +10, idle +30
    ['cpu  1010 0 500 8030 50 0 0 0 0 0', 25],
    ['cpu  1000 0 500 8000 100 0 0 0 0 0', 0],
    ['cpu  1 0 1 1 1 0 0 0 0 0', 0],
    ['cpu  9000 0 500 8000 100 0 0 0 0 0', 100],
    // kernels before 2.6.11 have fewer fields
    ['cpu  1010 0 500 8030', 25],
    ['nothing of use', 0],
  ]) {
    const machine = fakeMachine(t);
    machine.write('proc/stat.later', `${later}\n`);
    const { commands } = recordedSleep(t, `cp '${machine.root}/proc/stat.later' '${machine.root}/proc/stat'`);
    const { report } = await print(t, { env: machine.env, path: commands });
    assert.equal(report.cpuPercent, wanted, later);
  }
});

test('memory on a kernel without MemAvailable', async (t) => {
  const machine = fakeMachine(t);
  machine.write('proc/meminfo', [
    'MemTotal: 1000 kB', 'MemFree: 100 kB', 'Buffers: 50 kB', 'Cached: 300 kB', 'Shmem: 40 kB',
    'SReclaimable: 20 kB', 'HugePages_Total: 0', '',
  ].join('\n'));
  const { report } = await print(t, { env: machine.env });
  assert.equal(report.memoryTotalBytes, 1000 * 1024);
  assert.equal(report.memoryUsedBytes, (1000 - 100 - 50 - 300 - 20 + 40) * 1024);
});

test('disks: local filesystems once each, nothing that is virtual, remote, always full or covered', async (t) => {
  const at = temporaryDirectory(t);
  const directory = (name) => {
    fs.mkdirSync(path.join(at, name), { recursive: true });
    return path.join(at, name);
  };
  const [data, deeper, home, covered, pool] = ['data', 'deeper/data', 'home', 'covered', 'pool-of-disks'].map(directory);
  const machine = fakeMachine(t, {
    mounts: [
      { device: '0:5', mount: '/proc', type: 'proc', source: 'proc' },
      { device: '8:1', mount: '/', tags: 'shared:1 master:2' },
      { device: '8:1', root: '/bound', mount: directory('bind') },
      { device: '8:2', mount: deeper, source: '/dev/vda2' },
      { device: '8:2', mount: data, source: '/dev/vda2' },
      { device: '0:40', root: '/@', mount: pool, type: 'btrfs', source: '/dev/vdb' },
      { device: '0:40', root: '/@home', mount: home, type: 'btrfs', source: '/dev/vdb' },
      { device: '0:41', mount: directory('zfs'), type: 'zfs', source: 'rpool/data' },
      { device: '0:42', mount: directory('tmp'), type: 'tmpfs', source: 'tmpfs' },
      { device: '0:43', mount: directory('nfs'), type: 'nfs4', source: 'server:/export' },
      { device: '0:44', mount: directory('cifs'), type: 'cifs', source: '//server/share' },
      { device: '0:45', mount: directory('s3'), type: 'fuse.s3fs', source: '/dev/fuse' },
      { device: '0:46', mount: directory('merged'), type: 'overlay', source: 'overlay' },
      { device: '7:1', mount: directory('snap'), type: 'squashfs', source: '/dev/loop1' },
      { device: '11:0', mount: directory('cd'), type: 'iso9660', source: '/dev/sr0' },
      { device: '8:5', mount: '/var/lib/docker/volumes/x', source: '/dev/vda5' },
      { device: '8:6', mount: covered, source: '/dev/vda6' },
      { device: '0:47', mount: covered, type: 'tmpfs', source: 'tmpfs' },
      { device: '8:7', mount: path.join(at, 'not-there'), source: '/dev/vda7' },
    ],
  });
  const { report } = await print(t, { env: machine.env });
  assert.deepEqual(report.disks.map((d) => d.mount), ['/', data, home, path.join(at, 'zfs')]);
  // bsize is what Node calls the size that blocks are counted in
  const { bsize, blocks, bfree } = fs.statfsSync('/');
  assert.equal(report.disks[0].totalBytes, bsize * blocks);
  assert.ok(report.disks[0].usedBytes > 0);
  assert.ok(Math.abs(report.disks[0].usedBytes - bsize * (blocks - bfree)) < 1e9, 'used, not free');
});

test('disks: names with quotes, blanks, line ends, Unicode and broken bytes', async (t) => {
  const at = Buffer.from(`${temporaryDirectory(t)}/`);
  const names = [
    ['a "quoted" \\back', 'a "quoted" \\back'],
    ['line\nend\ttab \x01\x1b[31m', 'line\nend\ttab \x01\x1b[31m'],
    ["it's $(exit) `id` *", "it's $(exit) `id` *"],
    ['größe-数据-🫀', 'größe-数据-🫀'],
    [Buffer.from([0x62, 0xff, 0xc3, 0x28, 0xed, 0xa0, 0x80]), 'b\\xff\\xc3(\\xed\\xa0\\x80'],
    ['-o', '-o'],
    ['percent %s %n \\040', 'percent %s %n \\040'],
    ['e[x]', 'e[x]'],
  ].map(([name, shown]) => [Buffer.concat([at, Buffer.from(name)]), at.toString() + shown]);
  names.forEach(([name]) => fs.mkdirSync(name));
  const machine = fakeMachine(t, {
    mounts: names.map(([mount], i) => ({ device: `8:${i + 1}`, mount, source: `/dev/vd${i}` })),
  });
  const { report } = await print(t, { env: machine.env });
  assert.deepEqual(report.disks.map((d) => d.mount), names.map(([, shown]) => shown));
  assert.deepEqual(reportErrors(report), []);
});

test('disks: a name that is too long loses its middle, never half a character', async (t) => {
  const result = await withFunctions(t, `
    for text in "$(printf 'x%.0s' {1..255})" "$(printf 'x%.0s' {1..256})" "/$(printf '\\xe2\\x82\\xac%.0s' {1..200})/end"; do
      json_string "$text"; printf '%s\\n' "$JSON"
    done`);
  const [fits, cut, euros] = result.stdout.trim().split('\n').map((line) => JSON.parse(line));
  assert.equal(fits, 'x'.repeat(255));
  assert.match(cut, /^x+…x+$/u);
  assert.match(euros, /^\/€+…€+\/end$/u);
  for (const text of [cut, euros]) assert.ok(Buffer.byteLength(text) <= 255 && Buffer.byteLength(text) > 240);
});

test('disks: of more than 64 the fullest are reported', async (t) => {
  const at = temporaryDirectory(t);
  const mounts = Array.from({ length: 70 }, (_, i) => {
    const mount = path.join(at, `d${i}`);
    fs.mkdirSync(mount);
    return { device: `8:${i + 1}`, mount, source: `/dev/vd${i}` };
  });
  const machine = fakeMachine(t, { mounts });
  // stat -f -c "size N ..." -- PATH: disk N is N percent full
  const stat = fakeCommands(t, {
    stat: 'for last; do :; done; n=${last##*/d}; f=${3#size }; echo "size ${f%% *} 4096 1000000 $((1000000 - n * 10000))"',
  });
  const { report } = await print(t, { env: machine.env, path: stat });
  assert.deepEqual(reportErrors(report), []);
  assert.deepEqual(report.disks.map((d) => d.mount), mounts.slice(6).map((m) => m.mount));
});

test('disks: one that hangs, and cannot be killed, costs neither the report nor the others', async (t) => {
  const at = temporaryDirectory(t);
  for (const name of ['good', 'hung']) fs.mkdirSync(path.join(at, name));
  const machine = fakeMachine(t, {
    mounts: ['good', 'hung'].map((name, i) => ({ device: `8:${i}`, mount: path.join(at, name), source: `/dev/vd${i}` })),
  });
  const gate = path.join(at, 'gate');
  fs.writeFileSync(gate, '');
  // Ignores SIGTERM, as a process stuck in the kernel does, until the gate is gone.
  const front = fakeCommands(t, {
    stat: `for last; do :; done
case $last in
  */hung) trap '' TERM; while [ -e '${gate}' ]; do /bin/sleep 0.05; done ;;
esac
exec /usr/bin/stat "$@"`,
  });
  t.after(() => fs.rmSync(gate, { force: true }));
  const receiver = await startReceiver(t, () => ({ status: 200, body: '{"accepted":1,"nextReportSeconds":1}' }));
  const agent = startAgent(t, reporting(t, receiver, { machine, path: front, settings: { DEFIB_REPORT_SECONDS: 1 } }));
  const reports = await until(() => receiver.reports().length >= 3 && receiver.reports(), 'three reports');
  for (const report of reports) assert.deepEqual(report.disks.map((d) => path.basename(d.mount)), ['good']);
  const hanging = processes().filter((p) => p.environ.includes(agent.mark) && p.cmdline.includes(`--\0${at}/hung`));
  assert.equal(hanging.filter((p) => p.cmdline.startsWith('/bin/sh')).length, 1, 'they do not pile up');
  assert.equal(agent.log().filter((line) => line.includes('does not answer')).length, 1);
  fs.rmSync(gate);
  await until(() => receiver.reports().at(-1).disks.length === 2, 'the disk comes back');
  assert.equal(agent.log().filter((line) => line.includes('answers again')).length, 1);
  agent.kill('SIGTERM');
  await agent.end();
});

test('machineUUID: missing or meaningless is left out with a warning, capitals are lowered', async (t) => {
  const none = await print(t, { env: fakeMachine(t, { uuid: null }).env });
  assert.equal('machineUUID' in none.report, false);
  assert.match(none.stderr, /no SMBIOS uuid.*identity: Trust/);
  for (const uuid of ['00000000-0000-0000-0000-000000000000', 'FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF', 'Not Settable']) {
    const { report, stderr } = await print(t, { env: fakeMachine(t, { uuid }).env });
    assert.equal('machineUUID' in report, false, uuid);
    assert.match(stderr, /no SMBIOS uuid/);
  }
  const { report, stderr } = await print(t, { env: fakeMachine(t, { uuid: MACHINE_UUID.toUpperCase() }).env });
  assert.equal(report.machineUUID, MACHINE_UUID);
  assert.equal(stderr, '');
});

test('machineUUID: dmidecode is asked where the kernel does not say, never for another root', async (t) => {
  const dmidecode = fakeCommands(t, { dmidecode: `echo '# SMBIOS implementations newer than'; echo '${MACHINE_UUID.toUpperCase()}'` });
  const { env } = fakeMachine(t, { uuid: null });
  const asked = await withFunctions(t, 'uuid_from_kernel() { UUID=; }; SYS_ROOT=/sys; read_machine_uuid; echo "$MACHINE_UUID"', { path: dmidecode });
  assert.equal(asked.stdout.trim(), MACHINE_UUID);
  const other = await print(t, { env, path: dmidecode });
  assert.equal('machineUUID' in other.report, false);
});

test('supervised: the unit says so, or systemd started this very process; a leaked variable is no proof', async (t) => {
  const machine = fakeMachine(t);
  const supervised = async (options) => (await print(t, { ...options, env: { ...machine.env, ...options.env } })).report.supervised;
  assert.equal(await supervised({}), false);
  assert.equal(await supervised({ args: ['--supervised'] }), true);
  assert.equal(await supervised({ env: { INVOCATION_ID: 'a'.repeat(32), SYSTEMD_EXEC_PID: '1' } }), false);
  const own = await withFunctions(t, 'INVOCATION_ID=x SYSTEMD_EXEC_PID=$$; started_by_systemd && echo yes');
  assert.equal(own.stdout.trim(), 'yes');
});
