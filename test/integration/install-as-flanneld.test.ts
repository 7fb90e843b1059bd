import { mkdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { tempDir } from '../testbed/run.ts';
import { listInstalled, runInstall } from './installer.ts';

const LIBRARY = ' usr/lib/flanneld-ts/';
const UNIT = '[Service]\nType=notify\nExecStart=/usr/bin/flanneld-start $FLANNEL_OPTIONS\n';
/** What the flannel package of a host has put there, by path and mode. */
const PACKAGE = {
  'usr/bin/flanneld': ['755', '\x7fELF: a flanneld'],
  'usr/bin/flanneld-start': ['755', '#!/bin/sh\nexec /usr/bin/flanneld "$@"\n'],
  'usr/libexec/flannel/mk-docker-opts.sh': ['755', '#!/bin/sh\n# the one of flannel\n'],
  'usr/lib/systemd/system/flanneld.service': ['644', UNIT],
  'usr/lib/systemd/system/docker.service.d/flannel.conf': ['644', '[Service]\n'],
  'etc/sysconfig/flanneld': ['644', 'FLANNEL_ETCD_ENDPOINTS="http://10.0.0.1:2379"\n'],
} as const;

describe('script/install --as-flanneld', () => {
  let destdir: string;
  beforeEach(() => {
    destdir = tempDir('as-flanneld');
  });
  afterEach(() => rmSync(destdir, { recursive: true }));

  const install = (args: readonly string[] = [], env: Readonly<Record<string, string>> = {}) =>
    runInstall({ destdir, args: ['--as-flanneld', ...args], env });
  const read = (path: string) => readFileSync(join(destdir, path), 'utf8');
  const write = (path: string, content: string, mode = '644') => {
    mkdirSync(join(destdir, dirname(path)), { recursive: true });
    writeFileSync(join(destdir, path), content, { mode: Number.parseInt(mode, 8) });
  };
  const list = () => listInstalled(destdir).filter((line) => !line.includes(LIBRARY));
  const hasPackage = () => {
    for (const [path, [mode, content]] of Object.entries(PACKAGE)) write(path, content, mode);
  };
  const contents = () => Object.fromEntries(Object.keys(PACKAGE).map((path) => [path, read(path)]));

  test("puts the program under flanneld's names, and no unit, drop-in for Docker or sysconfig file", () => {
    const { status, stdout } = install();
    expect(status).toBe(0);
    expect(list()).toEqual([
      '644 etc/iproute2/rt_protos.d/flannel.conf',
      '644 etc/systemd/networkd.conf.d/flannel.conf',
      '755 usr/bin/flanneld',
      '755 usr/bin/flanneld-start',
      '755 usr/bin/flanneld-ts',
      '755 usr/libexec/flannel/mk-docker-opts.sh',
    ]);
    expect(read('usr/bin/flanneld')).toContain('\nlibrary=/usr/lib/flanneld-ts\n');
    expect(stdout).toContain('no flanneld.service of this host starts /usr/bin/flanneld');
  });

  test("keeps the host's unit, drop-in, sysconfig file and flanneld-start, and sets its programs aside", () => {
    hasPackage();
    const { status, stdout } = install();
    expect(status).toBe(0);
    expect(stdout).toContain('your /usr/bin/flanneld is now /usr/bin/flanneld.before-flanneld-ts');
    expect(stdout).not.toContain('no flanneld.service');
    const replaced = ['usr/bin/flanneld', 'usr/libexec/flannel/mk-docker-opts.sh'] as const;
    for (const path of replaced) {
      expect(read(path)).toContain('flanneld-ts');
      expect(read(`${path}.before-flanneld-ts`)).toBe(PACKAGE[path][1]);
      expect(statSync(join(destdir, `${path}.before-flanneld-ts`)).mode & 0o777).toBe(0o755);
    }
    const untouched = Object.entries(PACKAGE).filter(([path]) => !replaced.some((name) => name === path));
    for (const [path, [, content]] of untouched) expect(read(path)).toBe(content);
  });

  test('a second run changes nothing, and --uninstall leaves exactly what was there before', () => {
    hasPackage();
    const before = { files: listInstalled(destdir), contents: contents() };
    install();
    const first = { files: listInstalled(destdir), contents: contents() };
    expect(install().status).toBe(0);
    expect({ files: listInstalled(destdir), contents: contents() }).toEqual(first);
    const { status, stdout } = install(['--uninstall']);
    expect(status).toBe(0);
    expect(stdout).toContain('put back: /usr/bin/flanneld is what it was before');
    expect({ files: listInstalled(destdir), contents: contents() }).toEqual(before);
  });

  test('on a bare host --uninstall leaves nothing', () => {
    install();
    expect(install(['--uninstall']).status).toBe(0);
    expect(listInstalled(destdir)).toEqual([]);
  });

  test("a flanneld that a package's update has put over ours is neither lost nor replaced by an older one", () => {
    hasPackage();
    install();
    write('usr/bin/flanneld', '\x7fELF: a newer flanneld', '755');
    const kept = install(['--uninstall']);
    expect(kept.stdout).toContain("kept /usr/bin/flanneld, which is another flannel's");
    expect(read('usr/bin/flanneld')).toBe('\x7fELF: a newer flanneld');
    install();
    expect(read('usr/bin/flanneld.before-flanneld-ts')).toBe('\x7fELF: a newer flanneld');
    install(['--uninstall']);
    expect(read('usr/bin/flanneld')).toBe('\x7fELF: a newer flanneld');
  });

  test('a flanneld-start that is no script would start another flanneld: it is set aside too', () => {
    write('usr/bin/flanneld-start', '\x7fELF: a flanneld', '755');
    install();
    expect(read('usr/bin/flanneld-start')).toContain('exec /usr/bin/flanneld ');
    install(['--uninstall']);
    expect(listInstalled(destdir)).toEqual(['755 usr/bin/flanneld-start']);
    expect(read('usr/bin/flanneld-start')).toBe('\x7fELF: a flanneld');
  });

  test('PREFIX moves all of it', () => {
    expect(install([], { PREFIX: '/usr/local' }).status).toBe(0);
    expect(read('usr/local/bin/flanneld-start')).toContain('exec /usr/local/bin/flanneld ');
    expect(install(['--uninstall'], { PREFIX: '/usr/local' }).status).toBe(0);
    expect(listInstalled(destdir)).toEqual([]);
  });

  test('never stands beside an installation under the other name', () => {
    runInstall({ destdir });
    const before = listInstalled(destdir);
    const refusal = {
      status: 1,
      stderr: expect.stringMatching(/flanneld-ts under its own name: script\/install --uninstall first/),
    };
    expect(install()).toMatchObject(refusal);
    expect(listInstalled(destdir)).toEqual(before);
    runInstall({ destdir, args: ['--uninstall'] });
    install();
    const other = runInstall({ destdir, env: { PREFIX: '/usr' } });
    expect(other).toMatchObject({ status: 1, stderr: expect.stringContaining('under its other names') });
    const elsewhere = runInstall({ destdir, args: ['--uninstall'] });
    expect(elsewhere).toMatchObject({
      status: 1,
      stderr: expect.stringContaining('--as-flanneld --uninstall'),
    });
  });
});
