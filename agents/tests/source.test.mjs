// The script as a text.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import test from 'node:test';
import { agentScript, agentsDirectory, bash, runAgent } from './support/harness.mjs';

test('bash parses it and shellcheck is content', () => {
  execFileSync(bash, ['-n', agentScript]);
  execFileSync('shellcheck', ['-x', agentScript], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });
});

test('its version is that of the workspace', async (t) => {
  const manifest = fs.readFileSync(path.join(agentsDirectory, '../Cargo.toml'), 'utf8');
  const version = /^\[workspace\.package\][^[]*?^version = "([^"]+)"/ms.exec(manifest)[1];
  const { stdout, code } = await runAgent(t, { args: ['--version'] });
  assert.equal(code, 0);
  assert.equal(stdout, `defib-agent ${version}\n`);
});

test('--help names every option that the script knows', async (t) => {
  const { stdout } = await runAgent(t, { args: ['--help'] });
  const source = fs.readFileSync(agentScript, 'utf8');
  const main = source.slice(source.indexOf('\nmain() {'));
  const options = new Set(main.match(/--[a-z][a-z-]+(?=[ )|])/g).filter((o) => o !== '--option'));
  for (const option of options) assert.ok(stdout.includes(option), option);
  assert.ok(options.size >= 12);
});

test('nothing in the running agent writes to disk: no here-documents, no temporary files', () => {
  const source = fs.readFileSync(agentScript, 'utf8');
  const running = source.slice(0, source.indexOf('# 6. Install, uninstall'));
  assert.doesNotMatch(running, /<<[-<]?\s*["'A-Z$]|mktemp|\/tmp/);
});
