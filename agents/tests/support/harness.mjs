// What the tests share: a receiver that answers as told, a machine made of files, and the agent as
// a process. Nothing here but Node's own modules.
import { spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import fs from 'node:fs';
import http from 'node:http';
import https from 'node:https';
import os from 'node:os';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';

const here = path.dirname(fileURLToPath(import.meta.url));
export const agentsDirectory = path.resolve(here, '../..');
export const agentScript = path.join(agentsDirectory, 'linux-agent.sh');
// Another bash may be tested: DEFIB_TEST_BASH=/opt/bash-4.2/bin/bash node --test ...
export const bash = process.env.DEFIB_TEST_BASH ?? 'bash';

export const KEY = 'defib_default_web-1_1_c2VjcmV0LXNlY3JldC1zZWNyZXQ';
export const MACHINE_UUID = '4c4c4544-0043-3510-8052-b4c04f4e4d31';
export const BOOT_ID = '7f0c5b52-8f5e-4b57-9f0e-0d0f7a3b1c9d';

/** Waits until `condition()` gives something truthy and returns it; fails after the deadline. */
export async function until(condition, what, deadlineMs = 20_000) {
  const end = Date.now() + deadlineMs;
  for (;;) {
    const value = await condition();
    if (value) return value;
    if (Date.now() > end) throw new Error(`not within ${deadlineMs} ms: ${what}`);
    await sleep(20);
  }
}

export function temporaryDirectory(t) {
  const directory = fs.mkdtempSync(path.join(os.tmpdir(), 'defib-agent-test-'));
  t.after(() => fs.rmSync(directory, { recursive: true, force: true }));
  return directory;
}

/** An answer as the receiver gives it. */
export const accepted = (nextReportSeconds = 30) => ({
  status: 200,
  body: JSON.stringify({ accepted: 1, nextReportSeconds }),
});
export const problem = (status, detail, field, headers = {}) => ({
  status,
  headers: { 'Content-Type': 'application/problem+json', ...headers },
  body: JSON.stringify({ type: 'about:blank', title: 'Refused', status, detail, field }),
});

/**
 * A receiver. `answer(report, number)` returns {status, headers, body}, or null for no answer ever.
 * `requests` has {method, url, headers, body, report}.
 */
export async function startReceiver(t, answer = () => accepted(), tls = undefined) {
  const requests = [];
  const onRequest = (request, response) => {
    const chunks = [];
    request.on('data', (chunk) => chunks.push(chunk));
    request.on('end', () => {
      const body = Buffer.concat(chunks).toString('utf8');
      const report = body ? JSON.parse(body) : undefined;
      const { method, url, headers } = request;
      requests.push({ method, url, headers, body, report });
      const reply = answer(report, requests.length);
      if (reply) response.writeHead(reply.status, reply.headers ?? {}).end(reply.body ?? '');
    });
  };
  const server = tls ? https.createServer(tls, onRequest) : http.createServer(onRequest);
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.after(() => {
    server.closeAllConnections?.();
    server.close();
  });
  const { port } = server.address();
  return {
    requests,
    port,
    url: `${tls ? 'https' : 'http'}://127.0.0.1:${port}`,
    reports: (state) => requests.map((r) => r.report).filter((r) => !state || r.state === state),
  };
}

/** An address where nobody listens. */
export async function closedPort() {
  const server = http.createServer();
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address();
  await new Promise((resolve) => server.close(resolve));
  return port;
}

/** What the kernel does to blanks, line ends and backslashes in mountinfo. */
export function mountinfoEscape(name) {
  const bytes = Buffer.isBuffer(name) ? name : Buffer.from(name);
  const parts = [];
  for (const byte of bytes) {
    if ([0x20, 0x09, 0x0a, 0x5c].includes(byte)) {
      parts.push(Buffer.from(`\\${byte.toString(8).padStart(3, '0')}`));
    } else parts.push(Buffer.from([byte]));
  }
  return Buffer.concat(parts);
}

/** One line of mountinfo. */
export function mountLine({ device, root = '/', mount, type = 'ext4', source = '/dev/vda1', tags = '' }) {
  return Buffer.concat([
    Buffer.from(`36 25 ${device} ${root} `),
    mountinfoEscape(mount),
    Buffer.from(` rw,relatime ${tags ? `${tags} ` : ''}- ${type} ${source} rw\n`),
  ]);
}

/** A machine made of files: DEFIB_PROC_ROOT and DEFIB_SYS_ROOT. */
export function fakeMachine(t, { mounts = [{ device: '8:1', mount: '/' }], uuid = MACHINE_UUID } = {}) {
  const root = temporaryDirectory(t);
  const write = (name, text) => {
    const file = path.join(root, name);
    fs.mkdirSync(path.dirname(file), { recursive: true });
    // In one step, so that the agent never reads half a file.
    fs.writeFileSync(`${file}.new`, text);
    fs.renameSync(`${file}.new`, file);
  };
  write('proc/stat', 'cpu  1000 0 500 8000 100 0 0 0 0 0\n');
  write('proc/meminfo', 'MemTotal:        2048000 kB\nMemFree:          100000 kB\nMemAvailable:    1024000 kB\n');
  write('proc/uptime', '12345.67 45678.90\n');
  write('proc/sys/kernel/hostname', 'web-1\n');
  write('proc/sys/kernel/random/boot_id', `${BOOT_ID}\n`);
  write('proc/self/mountinfo', Buffer.concat(mounts.map(mountLine)));
  if (uuid) write('sys/class/dmi/id/product_uuid', `${uuid}\n`);
  return {
    root,
    write,
    env: { DEFIB_PROC_ROOT: path.join(root, 'proc'), DEFIB_SYS_ROOT: path.join(root, 'sys') },
  };
}

/** A directory for the front of PATH with commands that stand in for the real ones. */
export function fakeCommands(t, commands) {
  const directory = temporaryDirectory(t);
  for (const [name, script] of Object.entries(commands)) {
    fs.writeFileSync(path.join(directory, name), `#!/bin/sh\n${script}\n`, { mode: 0o755 });
  }
  return directory;
}

/** A `sleep` that writes down for how long it was asked, and hardly sleeps. */
export function recordedSleep(t, extra = '') {
  const directory = temporaryDirectory(t);
  const log = path.join(directory, 'log');
  fs.writeFileSync(log, '');
  const commands = fakeCommands(t, { sleep: `echo "$1" >>'${log}'\n${extra}\nexec /bin/sleep 0.03` });
  return { commands, durations: () => fs.readFileSync(log, 'utf8').split('\n').filter(Boolean).map(Number) };
}

export function writeConfig(t, settings, mode = 0o600) {
  const file = path.join(temporaryDirectory(t), 'agent.conf');
  const lines = Object.entries(settings).map(([name, value]) => `${name}=${value}\n`);
  fs.writeFileSync(file, lines.join(''), { mode });
  return file;
}

/** The processes that inherited this agent's mark, but for the agent itself. */
export function descendants(agent) {
  return processes().filter(({ pid, environ }) => pid !== agent.pid && environ.includes(agent.mark));
}

export function processes() {
  const found = [];
  for (const name of fs.readdirSync('/proc')) {
    if (!/^\d+$/.test(name)) continue;
    try {
      found.push({
        pid: Number(name),
        environ: fs.readFileSync(`/proc/${name}/environ`, 'latin1'),
        cmdline: fs.readFileSync(`/proc/${name}/cmdline`, 'latin1'),
      });
    } catch {
      // It has ended meanwhile, or is not ours to look at.
    }
  }
  return found;
}

/** Starts the agent. `exited` becomes {code, signal}; `stderr()` and `stdout()` are what it said. */
export function startAgent(t, { args = [], env = {}, path: front, script = agentScript, stdin } = {}) {
  const mark = `DEFIB_TEST_MARK=${randomUUID()}`;
  const child = spawn(bash, [script, ...args], {
    // Only this environment: a proxy or a setting of the machine that runs the tests must not count.
    env: {
      PATH: front ? `${front}:${process.env.PATH}` : process.env.PATH,
      HOME: '/nonexistent',
      [mark.split('=')[0]]: mark.split('=')[1],
      ...env,
    },
    stdio: [stdin === undefined ? 'ignore' : 'pipe', 'pipe', 'pipe'],
  });
  let out = '';
  let err = '';
  child.stdout.on('data', (data) => (out += data));
  child.stderr.on('data', (data) => (err += data));
  if (stdin !== undefined) {
    child.stdin.on('error', () => {});
    child.stdin.end(stdin);
  }
  const agent = {
    pid: child.pid,
    mark,
    result: undefined,
    stdout: () => out,
    stderr: () => err,
    log: () => err.split('\n').filter(Boolean),
    kill: (signal) => child.kill(signal),
  };
  agent.exited = new Promise((resolve) => {
    child.on('exit', async (code, signal) => {
      // Its last words may still be in the pipe, which a child of a killed agent can hold open.
      const closed = new Promise((done) => child.on('close', done));
      await Promise.race([closed, sleep(500, undefined, { ref: false })]);
      resolve((agent.result = { code, signal }));
    });
  });
  agent.end = async () => {
    try {
      return await until(() => agent.result, 'the agent ends');
    } catch (error) {
      throw new Error(`${error.message}; it said: ${err}`);
    }
  };
  t.after(async () => {
    if (agent.result) return;
    child.kill('SIGKILL');
    for (const { pid } of descendants(agent)) {
      try {
        process.kill(pid, 'SIGKILL');
      } catch {
        // gone already
      }
    }
    await agent.exited;
  });
  return agent;
}

/** Runs the agent to its end. */
export async function runAgent(t, options) {
  const agent = startAgent(t, options);
  await agent.end();
  return { code: agent.result.code, stdout: agent.stdout(), stderr: agent.stderr() };
}

/** Runs shell code with the agent's functions loaded. */
export async function withFunctions(t, code, { env = {}, path: front } = {}) {
  const file = path.join(temporaryDirectory(t), 'code.sh');
  fs.writeFileSync(file, `. '${agentScript}'\n${code}\n`);
  const result = await runAgent(t, { script: file, env, path: front });
  if (result.code !== 0) throw new Error(`exit ${result.code}: ${result.stderr}`);
  return result;
}

/** Everything an agent needs to report to `receiver` from a fake machine. */
export function reporting(t, receiver, { machine = fakeMachine(t), settings = {}, ...rest } = {}) {
  const config = writeConfig(t, { DEFIB_URL: receiver.url, DEFIB_KEY: KEY, ...settings });
  return { ...rest, args: ['--config', config, ...(rest.args ?? [])], env: { ...machine.env, ...(rest.env ?? {}) } };
}
