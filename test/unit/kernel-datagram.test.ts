import { closeSync, readSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import koffi from 'koffi';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { sendDatagram } from '../../src/native/libc.ts';
import { tempDir } from '../testbed/run.ts';

let folder: string;
const open: number[] = [];

beforeEach(() => {
  folder = tempDir('datagram');
});
afterEach(() => {
  for (const fd of open.splice(0)) closeSync(fd);
  rmSync(folder, { recursive: true, force: true });
});

/** A unix datagram socket bound to a path, or with `@` to an abstract name: Node has none of its own. */
function listen(path: string): number {
  const libc = koffi.load(null);
  const fd: number = libc.func('int socket(int, int, int)')(1, 2 | 0o4000, 0);
  open.push(fd);
  const address = Buffer.from(
    `\x01\0${path.replace(/^@/, '\0')}${path.startsWith('@') ? '' : '\0'}`,
    'latin1',
  );
  const bound: number = libc.func('int bind(int, const void *, int)')(fd, address, address.length);
  if (bound !== 0) throw new Error(`bind: errno ${koffi.errno()}`);
  return fd;
}

function received(fd: number): string {
  const buffer = Buffer.alloc(4096);
  return buffer.toString('utf8', 0, readSync(fd, buffer, 0, buffer.length, null));
}

/** The code of the error, undefined when it was sent. */
function code(path: string): unknown {
  try {
    sendDatagram(path, 'READY=1');
  } catch (error) {
    return error instanceof Error && 'code' in error ? error.code : error;
  }
  return undefined;
}

describe('sendDatagram', () => {
  test.each(['path', 'abstract name'])('sends one datagram to a %s', (kind) => {
    const path = kind === 'path' ? join(folder, 'notify') : `@${folder}/notify`;
    const fd = listen(path);
    sendDatagram(path, 'READY=1');
    sendDatagram(path, 'STATUS=3 routes, Zürich');
    expect(received(fd)).toBe('READY=1');
    expect(received(fd)).toBe('STATUS=3 routes, Zürich');
  });

  test('throws an error with a code, and never waits', () => {
    expect(code(join(folder, 'nobody'))).toBe('ENOENT');
    expect(code(`@${folder}/nobody`)).toBe('ECONNREFUSED');
    expect(code('')).toBe('EINVAL');
    expect(code(`/${'x'.repeat(107)}`)).toBe('ENAMETOOLONG');
    const path = join(folder, 'full');
    listen(path);
    let last: unknown;
    for (let i = 0; i < 10_000 && last === undefined; i++) last = code(path);
    expect(last).toBe('EAGAIN');
  });
});
