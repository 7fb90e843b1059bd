import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type Endpoint, parseEndpoints, withOneScheme } from '../../src/daemon/options/endpoints.ts';
import { InvalidValue } from '../../src/daemon/options/settings.ts';
import { type Env, run, usageError } from './options-run.ts';

const scheme = async (argv: readonly string[], env: Env = {}) =>
  (await run(argv, env)).options.etcdEndpoints.map(({ url }) => url);

const PAIR = ['--etcd-certfile=/tls/host.pem', '--etcd-keyfile=/tls/host.key'];
const FILES = { certFile: '/tls/host.pem', keyFile: '/tls/host.key' };
const NOT_USED = expect.stringContaining('the TLS files are not used');

describe('TLS to etcd', () => {
  it.each([
    [['--etcd-endpoints=https://a:1'], {}, ['https://a:1']],
    [['--etcd-endpoints=https://a:1', '--etcd-cafile=/ca'], { caFile: '/ca' }, ['https://a:1']],
    [
      ['--etcd-endpoints=https://a:1', ...PAIR, '--etcd-cafile=/ca'],
      { ...FILES, caFile: '/ca' },
      ['https://a:1'],
    ],
    [['--etcd-endpoints=a:1,b:2', ...PAIR], FILES, ['https://a:1', 'https://b:2']],
    [['--etcd-endpoints=a:1,b:2'], {}, ['http://a:1', 'http://b:2']],
    [['--etcd-cafile=', '--etcd-certfile=', '--etcd-keyfile='], {}, ['http://127.0.0.1:2379']],
  ])('is used as the endpoints say, or the certificate: %j', async (argv, etcdTls, expected) => {
    const { options, warnings } = await run(argv);
    expect(options.etcdTls).toEqual(etcdTls);
    expect(options.etcdEndpoints.map(({ url }) => url)).toEqual(expected);
    expect(warnings).toEqual([]);
  });

  it.each([
    [['--etcd-endpoints=http://a:1', ...PAIR]],
    [['--etcd-endpoints=a:1', '--etcd-cafile=/ca']],
    [['--etcd-endpoints=http://a:1,https://b:2', '--etcd-cafile=/ca']],
  ])("is off when the first endpoint's scheme says so, with a warning about files: %j", async (argv) => {
    expect((await scheme(argv)).every((url) => url.startsWith('http://'))).toBe(true);
    expect((await run(argv)).warnings).toContainEqual(NOT_USED);
  });

  it.each([
    [['--etcd-certfile=/c'], {}, '--etcd-certfile needs --etcd-keyfile'],
    [['--etcd-keyfile=/k'], {}, '--etcd-keyfile needs --etcd-certfile'],
    [[], { FLANNELD_ETCD_CERTFILE: '/c' }, 'FLANNELD_ETCD_CERTFILE needs --etcd-keyfile'],
    [['--etcd-cafile=/tls/'], {}, '--etcd-cafile must be the path of a file'],
  ])('%j %j is refused', async (argv, env, message) => {
    expect((await usageError(argv, env)).message).toContain(message);
  });

  it('is read from the environment as well', async () => {
    const env = { FLANNELD_ETCD_CERTFILE: '/c', FLANNELD_ETCD_KEYFILE: '/k', FLANNELD_ETCD_ENDPOINTS: 'a:1' };
    expect(await scheme([], env)).toEqual(['https://a:1']);
  });
});

describe('the user of etcd', () => {
  const FLAG_WARNING =
    '--etcd-password shows the password to every user of this host, in the process list: use FLANNELD_ETCD_PASSWORD or --etcd-password-file';

  const NOBODY = 'the password for etcd is not used, because no --etcd-username is given';
  const ROOT = ['--etcd-username=root'];
  const FILE = ['--etcd-password-file=/etc/pw'];
  const SECRET = { FLANNELD_ETCD_PASSWORD: 'hunter2' };
  const known = { username: 'root', password: 'hunter2' };

  it.each<[readonly string[], Env, object, readonly string[]]>([
    [[...ROOT, '-etcd-password', 'hunter2'], {}, known, [FLAG_WARNING]],
    [ROOT, SECRET, known, []],
    [[], { ...SECRET, FLANNELD_ETCD_USERNAME: 'root' }, known, []],
    [[...ROOT, ...FILE], {}, { username: 'root', passwordFile: '/etc/pw' }, []],
  ])('is taken from %j %j', async (argv, env, etcdUser, warnings) => {
    expect(await run(argv, env)).toMatchObject({ options: { etcdUser }, warnings });
  });

  it.each<[readonly string[], Env, readonly unknown[]]>([
    [['--etcd-username='], { FLANNELD_ETCD_USERNAME: 'root' }, []],
    [['--etcd-password='], {}, []],
    [[], SECRET, [NOBODY]],
    [FILE, {}, [NOBODY]],
  ])('is nobody with %j %j, with a warning when there is a password', async (argv, env, expected) => {
    const { options, warnings } = await run(argv, env);
    expect(options).not.toHaveProperty('etcdUser');
    expect(warnings).toEqual(expected);
  });

  it.each<[readonly string[], Env, string]>([
    [ROOT, {}, '--etcd-username needs a password: FLANNELD_ETCD_PASSWORD or --etcd-password-file'],
    [[...ROOT, '--etcd-password='], SECRET, 'needs a password'],
    [[], { FLANNELD_ETCD_USERNAME: 'root' }, 'FLANNELD_ETCD_USERNAME needs a password'],
    [[...ROOT, '--etcd-password=hunter2', ...FILE], {}, '--etcd-password and --etcd-password-file both give'],
    [[...ROOT, ...FILE], SECRET, 'FLANNELD_ETCD_PASSWORD and --etcd-password-file both give a password'],
  ])('%j %j is refused', async (argv, env, message) => {
    const error = await usageError(argv, env);
    expect(error.message).toContain(message);
    expect(error.message).not.toContain('hunter2');
  });
});

interface Given {
  readonly certificate?: boolean;
  readonly warn?: (message: string) => void;
}

function endpoints(text: string, { certificate = false, warn = () => {} }: Given = {}): readonly Endpoint[] {
  return withOneScheme(parseEndpoints(text), certificate, warn);
}

function urls(text: string, given: Given = {}): readonly string[] {
  return endpoints(text, given).map(({ url }) => url);
}

describe('etcd endpoints', () => {
  it.each([
    ['http://127.0.0.1:2379', ['http://127.0.0.1:2379']],
    ['https://etcd-0.example.org:2379', ['https://etcd-0.example.org:2379']],
    ['10.0.0.1:2379', ['http://10.0.0.1:2379']],
    ['http://a:1,http://b:2', ['http://a:1', 'http://b:2']],
    [' http://a:1 , ,,\thttp://b:2,', ['http://a:1', 'http://b:2']],
    ['http://a:1/', ['http://a:1']],
    ['HTTP://Host.Example.ORG:2379', ['http://host.example.org:2379']],
    ['host.example.org.:2379', ['http://host.example.org:2379']],
    ['etcd_0:2379', ['http://etcd_0:2379']],
    ['http://[::1]:2379', ['http://[::1]:2379']],
    ['[FC00:0:0::1]:2379', ['http://[fc00::1]:2379']],
    ['http://a:02379', ['http://a:2379']],
    ['a:1,http://a:1,http://b:2', ['http://a:1', 'http://b:2']],
  ])('reads %j', (text, expected) => {
    expect(urls(text)).toEqual(expected);
  });

  it('says host and port apart, IPv6 without brackets', () => {
    expect(endpoints('https://[::1]:2379')).toEqual([
      { url: 'https://[::1]:2379', scheme: 'https', host: '::1', port: 2379 },
    ]);
  });

  it("lets the first endpoint's scheme decide for all, and warns about the others", () => {
    const warnings: string[] = [];
    const warn = (message: string) => warnings.push(message);
    expect(urls('https://a:1,http://b:2,c:3', { warn })).toEqual([
      'https://a:1',
      'https://b:2',
      'https://c:3',
    ]);
    expect(warnings).toEqual([
      "etcd endpoint http://b:2 is used with https: the first endpoint's scheme decides for all",
    ]);
  });

  it('warns about a path, which is ignored, and about no slash', () => {
    const warnings: string[] = [];
    urls('http://a:1/v3,b:2/,http://c:3//', { warn: (message) => warnings.push(message) });
    expect(warnings).toEqual([
      "the path behind etcd endpoint a:1 is ignored: etcd's API has none",
      "the path behind etcd endpoint c:3 is ignored: etcd's API has none",
    ]);
  });

  it('reads them with TLS when a certificate is given, unless the first one says otherwise', () => {
    expect(urls('a:1,http://b:2', { certificate: true })).toEqual(['https://a:1', 'https://b:2']);
    expect(urls('http://a:1,b:2', { certificate: true })).toEqual(['http://a:1', 'http://b:2']);
  });

  it.each([
    ['', 'it names none'],
    ['http://a', 'it has no port'],
    ['http://a:1,http://b', 'number 2 has no port'],
    ['http://[::1]', 'it has no port'],
    ['::1:2379', 'without brackets'],
    ['http://a:0', 'no port from 1 to 65535'],
    ['http://a:65536', 'no port from 1 to 65535'],
    ['http://a:port', 'no port from 1 to 65535'],
    ['etcd://a:2379', 'neither http nor https'],
    ['://a:2379', 'neither http nor https'],
    ['http://:2379', 'no valid host name'],
    ['http://-a:2379', 'no valid host name'],
    ['http://a b:2379', /^must be .*2379; it is more than one: separate endpoints with commas$/],
    ['http://a:2379;http://b:2379', 'separate endpoints with commas'],
    ['http://a:2379http://b:2379', 'separate endpoints with commas'],
    ['http://a:2379:2380', 'has more than one port'],
    ['1:2:3:4:5:6:7:8', 'without brackets'],
    ['http://ä:2379', 'no valid host name'],
    ['http://010.0.0.1:2379', 'no valid IPv4 address'],
    ['http://[fc00::g]:2379', 'no valid IPv6 address'],
    ['http://[fe80::1%eth0]:2379', 'no valid IPv6 address'],
    ['http://a:1?x=y', 'a query or a fragment'],
  ])('refuses %j: %s', (text, why) => {
    expect(() => urls(text)).toThrow(InvalidValue);
    expect(() => urls(text)).toThrow(why);
  });

  it.each(['http://user:hunter2@a:1', 'bad,http://user:hunter2@a:1'])('refuses a password: %s', (text) => {
    expect(() => urls(text)).toThrow(/^(?!.*hunter2).*holds no user name and no password$/);
  });

  it('gives for its own output the same again', () => {
    const host = fc.oneof(
      fc.domain(),
      fc.ipV4(),
      fc.ipV6().map((address) => `[${address}]`),
    );
    const endpoint = fc
      .tuple(host, fc.integer({ min: 1, max: 65_535 }))
      .map(([name, port]) => `${name}:${port}`);
    fc.assert(
      fc.property(fc.array(endpoint, { minLength: 1 }), (list) => {
        const once = urls(list.join(','));
        expect(urls(once.join(' , '))).toEqual(once);
      }),
    );
  });

  it('throws nothing but InvalidValue, whatever the text', () => {
    const text = fc.oneof(
      fc.string(),
      fc.string({ unit: fc.constantFrom(...'htps:/[]@.,?#%19af- '.split('')) }),
    );
    fc.assert(
      fc.property(text, (value) => {
        try {
          expect(urls(value).length).toBeGreaterThan(0);
        } catch (error) {
          expect(error).toBeInstanceOf(InvalidValue);
        }
      }),
    );
  });
});
