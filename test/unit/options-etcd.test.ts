import { describe, expect, it } from 'vitest';
import { type Env, run, usageError } from './options-run.ts';

const scheme = async (argv: readonly string[], env: Env = {}) =>
  (await run(argv, env)).options.etcdEndpoints.map(({ url }) => url);

const PAIR = ['--etcd-certfile=/tls/host.pem', '--etcd-keyfile=/tls/host.key'];
const NOT_USED = expect.stringContaining('the TLS files are not used');

describe('TLS to etcd', () => {
  it.each([
    [['--etcd-endpoints=https://a:1'], {}, ['https://a:1']],
    [['--etcd-endpoints=https://a:1', '--etcd-cafile=/ca'], { caFile: '/ca' }, ['https://a:1']],
    [
      ['--etcd-endpoints=https://a:1', ...PAIR, '--etcd-cafile=/ca'],
      { caFile: '/ca', certFile: '/tls/host.pem', keyFile: '/tls/host.key' },
      ['https://a:1'],
    ],
    [
      ['--etcd-endpoints=a:1,b:2', ...PAIR],
      { certFile: '/tls/host.pem', keyFile: '/tls/host.key' },
      ['https://a:1', 'https://b:2'],
    ],
    [['--etcd-endpoints=a:1,b:2'], {}, ['http://a:1', 'http://b:2']],
    [['--etcd-cafile=', '--etcd-certfile=', '--etcd-keyfile='], {}, ['http://127.0.0.1:2379']],
  ])('%j', async (argv, etcdTls, urls) => {
    const { options, warnings } = await run(argv);
    expect(options.etcdTls).toEqual(etcdTls);
    expect(options.etcdEndpoints.map(({ url }) => url)).toEqual(urls);
    expect(warnings).toEqual([]);
  });

  it.each([
    [['--etcd-endpoints=http://a:1', ...PAIR]],
    [['--etcd-endpoints=a:1', '--etcd-cafile=/ca']],
    [['--etcd-endpoints=http://a:1,https://b:2', '--etcd-cafile=/ca']],
  ])("is off when the first endpoint's scheme says so, and files are warned about: %j", async (argv) => {
    expect((await scheme(argv)).every((url) => url.startsWith('http://'))).toBe(true);
    expect((await run(argv)).warnings).toContainEqual(NOT_USED);
  });

  it.each([
    [['--etcd-certfile=/c'], {}, '--etcd-certfile needs --etcd-keyfile'],
    [['--etcd-keyfile=/k'], {}, '--etcd-keyfile needs --etcd-certfile'],
    [['--etcd-cafile=/ca', '--etcd-keyfile=/k'], {}, '--etcd-keyfile needs --etcd-certfile'],
    [[], { FLANNELD_ETCD_CERTFILE: '/c' }, 'FLANNELD_ETCD_CERTFILE needs --etcd-keyfile'],
    [
      ['--etcd-keyfile='],
      { FLANNELD_ETCD_CERTFILE: '/c', FLANNELD_ETCD_KEYFILE: '/k' },
      'needs --etcd-keyfile',
    ],
    [['--etcd-cafile=/tls/'], {}, '--etcd-cafile is "/tls/": it must be the path of a file'],
  ])('%j %j is refused', async (argv, env, message) => {
    expect((await usageError(argv, env)).message).toContain(message);
  });

  it('comes from the environment as well', async () => {
    const env = { FLANNELD_ETCD_CERTFILE: '/c', FLANNELD_ETCD_KEYFILE: '/k', FLANNELD_ETCD_ENDPOINTS: 'a:1' };
    expect(await scheme([], env)).toEqual(['https://a:1']);
  });
});

describe('the user of etcd', () => {
  const FLAG_WARNING =
    '--etcd-password shows the password to every user of this host, in the process list: use FLANNELD_ETCD_PASSWORD or --etcd-password-file';

  it.each<[readonly string[], Env, object, readonly string[]]>([
    [
      ['--etcd-username=root', '-etcd-password', 'hunter2'],
      {},
      { username: 'root', password: 'hunter2' },
      [FLAG_WARNING],
    ],
    [
      ['--etcd-username=root'],
      { FLANNELD_ETCD_PASSWORD: 'hunter2' },
      { username: 'root', password: 'hunter2' },
      [],
    ],
    [
      [],
      { FLANNELD_ETCD_USERNAME: 'root', FLANNELD_ETCD_PASSWORD: 'hunter2' },
      { username: 'root', password: 'hunter2' },
      [],
    ],
    [
      ['--etcd-username=root', '--etcd-password-file=/etc/pw'],
      {},
      { username: 'root', passwordFile: '/etc/pw' },
      [],
    ],
    [
      ['--etcd-username=root'],
      { FLANNELD_ETCD_PASSWORD_FILE: '/etc/pw' },
      { username: 'root', passwordFile: '/etc/pw' },
      [],
    ],
  ])('%j %j', async (argv, env, etcdUser, warnings) => {
    expect(await run(argv, env)).toMatchObject({ options: { etcdUser }, warnings });
  });

  it.each<[readonly string[], Env]>([
    [[], {}],
    [['--etcd-username='], { FLANNELD_ETCD_USERNAME: 'root' }],
    [['--etcd-password='], {}],
  ])('is nobody with %j %j', async (argv, env) => {
    const { options, warnings } = await run(argv, env);
    expect(options).not.toHaveProperty('etcdUser');
    expect(warnings).toEqual([]);
  });

  it.each<[readonly string[], Env]>([
    [[], { FLANNELD_ETCD_PASSWORD: 'hunter2' }],
    [['--etcd-password-file=/etc/pw'], {}],
  ])('is nobody, with a warning, when there is a password alone: %j %j', async (argv, env) => {
    const { options, warnings } = await run(argv, env);
    expect(options).not.toHaveProperty('etcdUser');
    expect(warnings).toEqual(['the password for etcd is not used, because no --etcd-username is given']);
  });

  it.each<[readonly string[], Env, string]>([
    [
      ['--etcd-username=root'],
      {},
      '--etcd-username needs a password: FLANNELD_ETCD_PASSWORD or --etcd-password-file',
    ],
    [['--etcd-username=root', '--etcd-password='], { FLANNELD_ETCD_PASSWORD: 'hunter2' }, 'needs a password'],
    [[], { FLANNELD_ETCD_USERNAME: 'root' }, 'FLANNELD_ETCD_USERNAME needs a password'],
    [
      ['--etcd-username=root', '--etcd-password=hunter2', '--etcd-password-file=/etc/pw'],
      {},
      '--etcd-password and --etcd-password-file both give a password',
    ],
    [
      ['--etcd-username=root', '--etcd-password-file=/etc/pw'],
      { FLANNELD_ETCD_PASSWORD: 'hunter2' },
      'FLANNELD_ETCD_PASSWORD and --etcd-password-file both give a password',
    ],
  ])('%j %j is refused', async (argv, env, message) => {
    const error = await usageError(argv, env);
    expect(error.message).toContain(message);
    expect(error.message).not.toContain('hunter2');
  });
});
