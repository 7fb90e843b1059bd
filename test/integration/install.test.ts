import { spawnSync } from 'node:child_process';
import {
  appendFileSync,
  copyFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { quoted } from '../testbed/commands.ts';
import { tempDir } from '../testbed/run.ts';
import { INSTALL, listInstalled, runInstall } from './installer.ts';

const PROJECT = join(import.meta.dirname, '../..');
const SHIPPED_SYSCONFIG = readFileSync(join(PROJECT, 'systemd/sysconfig/flanneld'), 'utf8');
const SYSCONFIG = 'etc/sysconfig/flanneld';

describe('script/install', () => {
  let destdir: string;
  beforeEach(() => {
    destdir = tempDir('install');
  });
  afterEach(() => rmSync(destdir, { recursive: true }));

  const install = (
    args: readonly string[] = [],
    env: Readonly<Record<string, string>> = {},
    script = INSTALL,
  ) => runInstall({ destdir, args, env, script });
  const read = (path: string) => readFileSync(join(destdir, path), 'utf8');
  const list = () => listInstalled(destdir);
  /** The same without the program's own folder, which is as it was built. */
  const listOutside = (library: string) => list().filter((line) => !line.includes(` ${library}/`));

  test('puts every file in its place, with modes that do not depend on the umask', () => {
    const script = `umask 077; exec ${quoted(join(PROJECT, 'script/install'))}`;
    const env = { PATH: process.env['PATH'], DESTDIR: destdir, NODE: process.execPath };
    expect(spawnSync('sh', ['-c', script], { env }).status).toBe(0);
    expect(listOutside('usr/local/lib/flanneld-ts')).toEqual([
      '644 etc/iproute2/rt_protos.d/flannel.conf',
      '644 etc/sysconfig/flanneld',
      '644 etc/systemd/networkd.conf.d/flannel.conf',
      '644 usr/local/lib/systemd/system/docker.service.d/flannel.conf',
      '644 usr/local/lib/systemd/system/flanneld-migrate.service',
      '644 usr/local/lib/systemd/system/flanneld.service',
      '755 usr/local/bin/flanneld-ts',
      '755 usr/local/libexec/flannel/mk-docker-opts.sh',
    ]);
    for (const program of ['flanneld-ts', 'flanneld-ts.cjs'])
      expect(list()).toContain(`755 usr/local/lib/flanneld-ts/${program}`);
    const folders = readdirSync(destdir, { recursive: true, encoding: 'utf8' }).filter((path) =>
      statSync(join(destdir, path)).isDirectory(),
    );
    for (const folder of folders) expect(statSync(join(destdir, folder)).mode & 0o777).toBe(0o755);
    expect(read(SYSCONFIG)).toBe(SHIPPED_SYSCONFIG);
  });

  test('the installed program runs, with nothing of this folder', () => {
    const prefix = join(destdir, 'prefix');
    // Not under DESTDIR: the launcher names its own place.
    expect(install([], { PREFIX: '/usr' }).status).toBe(0);
    const launcher = read('usr/bin/flanneld-ts');
    expect(launcher).not.toContain(PROJECT);
    expect(launcher).not.toContain(destdir);
    mkdirSync(prefix);
    writeFileSync(join(prefix, 'run'), launcher.replaceAll('/usr/', `${destdir}/usr/`), { mode: 0o755 });
    const { stdout, status } = spawnSync(join(prefix, 'run'), ['--version'], { encoding: 'utf8' });
    expect({ stdout, status }).toEqual({ stdout: expect.stringMatching(/^flanneld-ts \d/), status: 0 });
  });

  test.each([
    { prefix: '/usr/local', units: 'usr/local/lib/systemd/system' },
    { prefix: '/usr', units: 'usr/lib/systemd/system' },
    { prefix: '/opt/flannel/', units: 'etc/systemd/system' },
  ])(
    'PREFIX=$prefix: the unit lies where systemd looks and starts what was installed',
    ({ prefix, units }) => {
      expect(install([], { PREFIX: prefix }).status).toBe(0);
      const exec = /^ExecStart=(\S+) \$FLANNEL_OPTIONS$/m.exec(read(`${units}/flanneld.service`))?.[1];
      expect(exec).toBe(join(prefix, 'bin/flanneld-ts'));
      expect(read(`${units}/flanneld-migrate.service`)).toContain(`\nExecStart=${exec} migrate --follow `);
      expect(existsSync(join(destdir, exec ?? ''))).toBe(true);
      expect(existsSync(join(destdir, prefix, 'libexec/flannel/mk-docker-opts.sh'))).toBe(true);
      expect(install(['--uninstall'], { PREFIX: prefix }).status).toBe(0);
      expect(list()).toEqual([]);
    },
  );

  test('a second install changes nothing, and keeps an edited sysconfig file', () => {
    install();
    const first = list();
    const again = install();
    expect(again.status).toBe(0);
    expect(again.stdout).toContain('systemctl restart flanneld');
    expect(again.stdout).not.toContain('enable --now');
    expect(list()).toEqual(first);
    appendFileSync(join(destdir, SYSCONFIG), 'FLANNEL_OPTIONS="--iface=eth1"\n');
    const edited = read(SYSCONFIG);
    expect(install().stdout).toContain('kept your /etc/sysconfig/flanneld');
    expect(read(SYSCONFIG)).toBe(edited);
    expect(list()).toEqual(first);
  });

  test('a sysconfig file nobody has edited follows a new version', () => {
    const older = join(destdir, 'older');
    for (const part of ['script/install', 'systemd', 'dist']) {
      cpSync(join(PROJECT, part), join(older, part), { recursive: true });
    }
    writeFileSync(join(older, 'systemd/sysconfig/flanneld'), '# of an older version\n');
    install([], {}, join(older, 'script/install'));
    expect(read(SYSCONFIG)).toBe('# of an older version\n');
    install();
    expect(read(SYSCONFIG)).toBe(SHIPPED_SYSCONFIG);
  });

  test('--uninstall removes all it has put there and nothing else', () => {
    for (const folder of ['usr/local/bin', 'usr/local/lib', 'etc/iproute2/rt_protos.d', 'etc/sysconfig']) {
      mkdirSync(join(destdir, folder), { recursive: true });
    }
    writeFileSync(join(destdir, 'etc/sysconfig/other'), '');
    const before = list();
    install();
    install();
    const { status, stdout } = install(['--uninstall']);
    expect(status).toBe(0);
    expect(list()).toEqual(before);
    // What outlives the program, with commands that do not need it.
    for (const command of ['cleanup --routes', 'lease release'])
      expect(stdout).toContain(`node ${join(PROJECT, 'dist/flanneld-ts.cjs')} ${command}`);
    expect(stdout).toContain('/run/docker_opts.env');
    expect(install(['--uninstall']).status).toBe(0);
  });

  test('--uninstall keeps an edited sysconfig file, says so, and keeps what others have put beside its files', () => {
    install();
    appendFileSync(join(destdir, SYSCONFIG), '# mine\n');
    writeFileSync(join(destdir, 'usr/local/libexec/other'), '');
    const { stdout } = install(['--uninstall']);
    expect(stdout).toContain('kept your /etc/sysconfig/flanneld');
    expect(list()).toEqual(['644 etc/sysconfig/flanneld', '644 usr/local/libexec/other']);
  });

  test("another flannel's unit is neither replaced nor removed", () => {
    const unit = 'usr/lib/systemd/system/flanneld.service';
    mkdirSync(join(destdir, 'usr/lib/systemd/system'), { recursive: true });
    writeFileSync(join(destdir, unit), '[Service]\nExecStart=/usr/bin/flanneld\n');
    const before = list();
    const { status, stderr } = install([], { PREFIX: '/usr' });
    expect({ status, stderr }).toEqual({
      status: 1,
      stderr: expect.stringContaining('belongs to another flannel'),
    });
    expect(list()).toEqual(before);
    install(['--uninstall'], { PREFIX: '/usr' });
    expect(list()).toEqual(before);
  });

  const DEBIAN =
    'ExecStart=/usr/sbin/dockerd -H fd:// --containerd=/run/containerd/containerd.sock $DOCKER_OPTS';
  const MORE = 'ExecStart=/usr/bin/dockerd -H fd:// --insecure-registry=10.0.0.9 $DOCKER_OPTS';
  const PLAIN = 'ExecStart=/usr/bin/dockerd --live-restore';
  const LOST = /note: \/(\S+) starts Docker by another command, whose flags it loses .*: (.*)/;
  const WINS = /note: \/(\S+) wins over \/usr\/local\/lib\/systemd\/system\/docker.service.d\/flannel.conf/;
  const unit = 'lib/systemd/system/docker.service';
  const etc = 'etc/systemd/system/docker.service';
  test.each<[string, Record<string, string>, RegExp | undefined, string]>([
    ['no Docker', {}, undefined, ''],
    ["Debian's unit", { [`usr/${unit}`]: DEBIAN }, undefined, ''],
    ["docker-ce's", { [unit]: DEBIAN.replace(' $DOCKER_OPTS', '') }, undefined, ''],
    ['a unit with other flags', { [unit]: MORE }, LOST, unit],
    ["the operator's unit before the package's", { [etc]: MORE, [`usr/${unit}`]: DEBIAN }, LOST, etc],
    ["the package's unit behind the operator's", { [etc]: DEBIAN, [`usr/${unit}`]: MORE }, undefined, ''],
    ['a drop-in that sorts before', { [`${etc}.d/10-flags.conf`]: PLAIN }, LOST, `${etc}.d/10-flags.conf`],
    ['one that sorts behind', { [`${etc}.d/override.conf`]: PLAIN }, WINS, `${etc}.d/override.conf`],
    ['one behind that takes the options', { [`${etc}.d/override.conf`]: MORE }, undefined, ''],
    ['one without a command', { [`${etc}.d/override.conf`]: 'LimitNOFILE=9' }, undefined, ''],
  ])('tells of a Docker that is started by another command: %s', (_, files, note, path) => {
    for (const [name, line] of Object.entries(files)) {
      mkdirSync(join(destdir, dirname(name)), { recursive: true });
      const reset = name.endsWith('.conf') ? 'ExecStart=\n' : '';
      writeFileSync(join(destdir, name), `[Service]\n${reset}${line}\n`);
    }
    for (const { stdout } of [install(), install()]) {
      if (note === undefined) expect(stdout).not.toContain('note:');
      else expect(note.exec(stdout)?.[1]).toBe(path);
      expect(stdout.match(/note:/g)?.length ?? 0).toBe(note === undefined ? 0 : 1);
      if (note === LOST)
        expect(stdout).toContain('none of --bip, --mtu, --ip-masq, --bridge (-b), --host (-H)');
      if (note === LOST) expect(stdout).toContain(files[path]?.replace('ExecStart=', ': ') ?? '');
    }
  });

  test('a Node that the service cannot see is copied', () => {
    const hidden = join(destdir, 'node');
    copyFileSync(process.execPath, hidden);
    install([], { NODE: hidden });
    expect(read('usr/local/bin/flanneld-ts')).toContain(
      "\nnode='/usr/local/lib/flanneld-ts/node'\nlibrary=/usr/local/lib/flanneld-ts\n",
    );
    expect(statSync(join(destdir, 'usr/local/lib/flanneld-ts/node')).mode & 0o777).toBe(0o755);
  });

  test('says what to do when no Node is new enough, and installs nothing', () => {
    const old = join(destdir, 'old-node');
    writeFileSync(old, '#!/bin/sh\nexit 1\n', { mode: 0o755 });
    expect(install([], { NODE: old }).stderr).toMatch(/is no Node 20\.19 or later/);
    expect(list()).toEqual(['755 old-node']);
  });

  test('says what to do when the program is not built', () => {
    const bare = join(destdir, 'bare');
    mkdirSync(join(bare, 'script'), { recursive: true });
    copyFileSync(join(PROJECT, 'script/install'), join(bare, 'script/install'));
    symlinkSync(join(PROJECT, 'systemd'), join(bare, 'systemd'));
    const { status, stderr } = install([], {}, join(bare, 'script/install'));
    expect({ status, stderr }).toEqual({
      status: 1,
      stderr: expect.stringContaining("run 'npm ci && npm run build' first"),
    });
  });

  test.each([
    [{ PREFIX: 'usr' }, /PREFIX must be an absolute path/],
    [{ PREFIX: '/' }, /PREFIX must be an absolute path other than \//],
    [{ PREFIX: '/opt/my flannel' }, /PREFIX may hold letters/],
    [{ PREFIX: '/home/me/.local' }, /the service sees no folder below/],
    [{ DESTDIR: 'relative' }, /DESTDIR must be an absolute path/],
  ])('%o is refused', (env, message) => {
    expect(install([], env)).toMatchObject({ status: 1, stderr: expect.stringMatching(message) });
    expect(list()).toEqual([]);
  });

  test('an unknown option is refused, --help explains', () => {
    expect(install(['--remove'])).toMatchObject({ status: 1, stderr: expect.stringContaining("'--remove'") });
    expect(install(['--help'])).toMatchObject({ status: 0, stdout: expect.stringContaining('DESTDIR') });
    expect(list()).toEqual([]);
  });
});
