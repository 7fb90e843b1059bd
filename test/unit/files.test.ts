import { type ChildProcess, spawn } from 'node:child_process';
import {
  chmodSync,
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { nodeFiles } from '../../src/daemon/host/files.ts';
import { tempDir } from '../testbed/run.ts';

let folder: string;

beforeEach(() => {
  folder = tempDir('files');
});

afterEach(() => {
  rmSync(folder, { recursive: true, force: true });
});

const ended = (child: ChildProcess) => new Promise<number | null>((resolve) => child.once('exit', resolve));
const modeOf = (path: string) => statSync(path).mode & 0o7777;

describe('reading', () => {
  it('gives the text, or undefined when there is no file, and throws every other error', async () => {
    writeFileSync(join(folder, 'a'), 'text ä\n');
    expect(await nodeFiles.readText(join(folder, 'a'))).toBe('text ä\n');
    expect(await nodeFiles.readText(join(folder, 'b'))).toBeUndefined();
    expect(await nodeFiles.readText(join(folder, 'c', 'd'))).toBeUndefined();
    await expect(nodeFiles.readText(folder)).rejects.toMatchObject({ code: 'EISDIR' });
  });
});

describe('writing', () => {
  it('fails where nobody can make a folder', async () => {
    await expect(nodeFiles.writeAtomic('/proc/none/x/subnet.env', '', 0o644)).rejects.toMatchObject({
      code: 'ENOENT',
    });
  });

  it('leaves the mode of a folder that exists alone', async () => {
    const inner = join(folder, 'private');
    mkdirSync(inner);
    chmodSync(inner, 0o700);
    await nodeFiles.writeAtomic(join(inner, 'f'), '', 0o644);
    expect(modeOf(inner)).toBe(0o700);
  });

  it('replaces what is there, with another inode and the new mode', async () => {
    const path = join(folder, 'f');
    writeFileSync(path, 'old', { mode: 0o600 });
    const before = statSync(path).ino;
    await nodeFiles.writeAtomic(path, 'new', 0o644);
    expect(readFileSync(path, 'utf8')).toBe('new');
    expect(modeOf(path)).toBe(0o644);
    expect(statSync(path).ino).not.toBe(before);
  });

  it('replaces a symbolic link and leaves its target alone', async () => {
    const target = join(folder, 'target');
    const link = join(folder, 'link');
    writeFileSync(target, 'precious');
    symlinkSync(target, link);
    await nodeFiles.writeAtomic(link, 'new', 0o644);
    expect(lstatSync(link).isFile()).toBe(true);
    expect([readFileSync(target, 'utf8'), readFileSync(link, 'utf8')]).toEqual(['precious', 'new']);
  });

  it.each([
    ['a folder is in the way', 'EISDIR', (path: string) => mkdirSync(path)],
    ['the parent is a file', 'ENOTDIR', (path: string) => writeFileSync(join(path, '..'), '')],
  ])('fails, changes nothing and leaves no temporary file when %s', async (_, code, obstruct) => {
    const path = join(folder, 'parent', 'f');
    if (code === 'EISDIR') mkdirSync(join(folder, 'parent'));
    obstruct(path);
    const before = readdirSync(folder, { recursive: true });
    await expect(nodeFiles.writeAtomic(path, 'x', 0o644)).rejects.toMatchObject({ code });
    expect(readdirSync(folder, { recursive: true })).toEqual(before);
  });

  it('shows a reader the old text or the new one, never a part', async () => {
    const path = join(folder, 'f');
    const texts = ['a', 'b'].map((letter) => letter.repeat(200_000));
    await nodeFiles.writeAtomic(path, texts[0] ?? '', 0o644);
    const writing = new AbortController();
    const writer = (async () => {
      for (let i = 0; i < 40; i++) await nodeFiles.writeAtomic(path, texts[i % 2] ?? '', 0o644);
      writing.abort();
    })();
    let reads = 0;
    while (!writing.signal.aborted) {
      expect(texts).toContain(await nodeFiles.readText(path));
      reads++;
    }
    await writer;
    expect(reads).toBeGreaterThan(5);
  }, 30_000);

  it('lets several write at once: one of them wins whole', async () => {
    const path = join(folder, 'f');
    await Promise.all(
      ['1', '2', '3', '4'].map((text) => nodeFiles.writeAtomic(path, text.repeat(1000), 0o644)),
    );
    expect(readFileSync(path, 'utf8')).toMatch(/^(.)\1{999}$/);
    expect(readdirSync(folder)).toEqual(['f']);
  });

  it('removes what dead writers of the same file left, and nothing else', async () => {
    const old = new Date(Date.now() - 60_000);
    const leave = (name: string, when = old) => {
      writeFileSync(join(folder, name), '');
      utimesSync(join(folder, name), when, when);
      return name;
    };
    leave('.f.0123456789ab.tmp');
    const kept = [
      leave('.f.ba9876543210.tmp', new Date()),
      leave('.f.0123456789AB.tmp'),
      leave('.f.0123456789ab.tmp.bak'),
      leave('.g.0123456789ab.tmp'),
      leave('f.0123456789ab.tmp'),
    ];
    mkdirSync(join(folder, '.f.aaaaaaaaaaaa.tmp'));
    utimesSync(join(folder, '.f.aaaaaaaaaaaa.tmp'), old, old);
    await nodeFiles.writeAtomic(join(folder, 'f'), 'x', 0o644);
    expect(readdirSync(folder).toSorted()).toEqual([...kept, '.f.aaaaaaaaaaaa.tmp', 'f'].toSorted());
  });
});

describe('in a process of its own', () => {
  const module = new URL('../../src/daemon/host/files.ts', import.meta.url).href;

  function start(script: string): ChildProcess {
    const source = `import { nodeFiles } from ${JSON.stringify(module)};\n${script}`;
    return spawn(process.execPath, ['--input-type=module', '-e', source], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
  }

  it.each(['0077', '0000', '0027'])('sets modes whatever the umask: %s', async (umask) => {
    const path = join(folder, 'a', 'b', 'f');
    const child = start(
      `process.umask(0o${umask}); await nodeFiles.writeAtomic(${JSON.stringify(path)}, 'x', 0o644);`,
    );
    expect(await ended(child)).toBe(0);
    expect([modeOf(path), modeOf(join(folder, 'a', 'b')), modeOf(join(folder, 'a'))]).toEqual([
      0o644, 0o755, 0o755,
    ]);
  });

  it('syncs the content before the rename, and the folder after it', async () => {
    const path = join(folder, 'f');
    // What the module calls goes on to the kernel; it is written down on its way.
    const script = `
      import { readlinkSync } from 'node:fs';
      import promises, { open } from 'node:fs/promises';
      import { syncBuiltinESMExports } from 'node:module';
      const steps = [];
      const handle = await open(${JSON.stringify(folder)});
      const prototype = Object.getPrototypeOf(handle);
      await handle.close();
      const { sync } = prototype;
      prototype.sync = async function () {
        steps.push('sync ' + readlinkSync('/proc/self/fd/' + this.fd));
        return sync.call(this);
      };
      const { rename } = promises;
      promises.rename = async (from, to) => {
        steps.push('rename ' + from + ' ' + to);
        return rename(from, to);
      };
      syncBuiltinESMExports();
      await nodeFiles.writeAtomic(${JSON.stringify(path)}, 'x', 0o644);
      process.stdout.write(JSON.stringify(steps));`;
    const child = start(script);
    let text = '';
    child.stdout?.on('data', (part: Buffer) => {
      text += part.toString();
    });
    expect(await ended(child)).toBe(0);
    const [, temporary = ''] = /^\["sync ([^"]*)"/.exec(text) ?? [];
    expect(temporary).toMatch(/\/\.f\.[\da-f]{12}\.tmp$/);
    expect(JSON.parse(text)).toEqual([`sync ${temporary}`, `rename ${temporary} ${path}`, `sync ${folder}`]);
    expect(readFileSync(path, 'utf8')).toBe('x');
  });

  it('leaves a whole file when it is killed at any moment', async () => {
    const path = join(folder, 'f');
    const script = `for (let i = 0; ; i++) {
      await nodeFiles.writeAtomic(${JSON.stringify(path)}, String(i % 10).repeat(500_000), 0o644);
      if (i === 0) process.stdout.write('started');
    }`;
    for (let round = 0; round < 5; round++) {
      const child = start(script);
      await new Promise((resolve) => child.stdout?.once('data', resolve));
      const seen = new Set<string>();
      // Another inode is another write: the kill falls between or into writes, never before the first.
      while (seen.size < 2 + round)
        seen.add(String(statSync(path).ino) + readFileSync(path, 'utf8').slice(0, 1));
      child.kill('SIGKILL');
      await ended(child);
      expect(readFileSync(path, 'utf8')).toMatch(/^(\d)\1{499999}$/);
    }
    for (const name of readdirSync(folder)) utimesSync(join(folder, name), 0, 0);
    await nodeFiles.writeAtomic(path, 'x', 0o644);
    expect(readdirSync(folder)).toEqual(['f']);
    expect(existsSync(path)).toBe(true);
  }, 30_000);
});
