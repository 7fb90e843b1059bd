import { chmodSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { systemCommands } from '../../src/daemon/host/commands.ts';
import { tempDir } from '../testbed/run.ts';

const never = new AbortController().signal;
const folders: string[] = [];

afterEach(() => {
  vi.unstubAllEnvs();
  for (const folder of folders.splice(0)) rmSync(folder, { recursive: true });
});

/** A folder with a program that is this shell script. */
function program(name: string, script: string): string {
  const folder = tempDir('commands');
  folders.push(folder);
  writeFileSync(join(folder, name), `#!/bin/sh\n${script}\n`);
  chmodSync(join(folder, name), 0o755);
  return folder;
}

const sh = (script: string, options = {}, signal = never) =>
  systemCommands().run('sh', ['-c', script], { timeoutMs: 20_000, ...options }, signal);

describe('systemCommands', () => {
  it('resolves to exit code and output, whatever the code', async () => {
    expect(await sh('echo out; echo err >&2; exit 4')).toEqual({
      exitCode: 4,
      stdout: 'out\n',
      stderr: 'err\n',
    });
  });

  it('hands over standard input, and closes it when there is none', async () => {
    expect((await sh('cat', { stdin: '*nat\nCOMMIT\n' })).stdout).toBe('*nat\nCOMMIT\n');
    expect((await sh('cat')).stdout).toBe('');
  });

  it('does not mind a program that ends without reading its input', async () => {
    expect((await sh('exit 3', { stdin: 'x'.repeat(1 << 20) })).exitCode).toBe(3);
  });

  it('uses no shell: words stay as they are', async () => {
    const { stdout } = await systemCommands().run('echo', ['$HOME;', '*'], { timeoutMs: 20_000 }, never);
    expect(stdout).toBe('$HOME; *\n');
  });

  it('runs them in the C locale', async () => {
    expect((await sh('echo $LC_ALL')).stdout).toBe('C\n');
  });

  it('hands on none of our own variables, where a password may be', async () => {
    const given = {
      FLANNELD_ETCD_PASSWORD: 'hunter2',
      FLANNELD_ETCD_PASSWORD_FILE: '/etc/hunter2',
      FLANNELD_MY_PASSWORT: 'hunter2',
      FLANNEL_ETCD_ENDPOINTS: 'http://root:hunter2@127.0.0.1:2379',
      XTABLES_LOCKFILE: '/run/other.lock',
    };
    for (const [name, value] of Object.entries(given)) vi.stubEnv(name, value);
    const { stdout } = await sh('env');
    expect(stdout).toContain('XTABLES_LOCKFILE=/run/other.lock\n');
    expect(stdout).not.toContain('hunter2');
  });

  it('looks in its own folders first', async () => {
    const folder = program('iptables', 'echo mine');
    const { stdout } = await systemCommands([folder]).run('iptables', [], { timeoutMs: 20_000 }, never);
    expect(stdout).toBe('mine\n');
  });

  it.each([
    ['COMMAND_MISSING', 'no-such-program', 'no-such-program is not installed'],
    ['COMMAND_FAILED', 'forbidden', 'forbidden could not be run'],
  ])('%s', async (code, name, message) => {
    const folder = program('forbidden', '');
    chmodSync(join(folder, 'forbidden'), 0o644);
    const run = systemCommands([folder]).run(name, [], { timeoutMs: 20_000 }, never);
    await expect(run).rejects.toMatchObject({ code, message: expect.stringContaining(message) });
  });

  it('COMMAND_TIMEOUT: kills what takes too long', async () => {
    const run = sh('exec sleep 1000', { timeoutMs: 50 });
    await expect(run).rejects.toMatchObject({
      code: 'COMMAND_TIMEOUT',
      message: 'sh took longer than 0.05 s',
    });
  });

  it('COMMAND_FAILED: a signal ended it', async () => {
    await expect(sh('kill -9 $$')).rejects.toMatchObject({ code: 'COMMAND_FAILED' });
  });

  it('kills it when the signal aborts, and rejects with the reason once it has ended', async () => {
    const controller = new AbortController();
    const reason = new Error('stop');
    const run = sh('exec sleep 1000', {}, controller.signal);
    controller.abort(reason);
    await expect(run).rejects.toBe(reason);
    await expect(sh('true', {}, controller.signal)).rejects.toBe(reason);
  });
});
