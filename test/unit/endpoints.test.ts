import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type Endpoint, parseEndpoints, withOneScheme } from '../../src/daemon/options/endpoints.ts';
import { InvalidValue } from '../../src/daemon/options/errors.ts';

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
    ['localhost:2379', ['http://localhost:2379']],
    ['http://a:1,http://b:2', ['http://a:1', 'http://b:2']],
    [' http://a:1 , ,,\thttp://b:2,', ['http://a:1', 'http://b:2']],
    ['http://a:1/', ['http://a:1']],
    ['http://a:1/v3/some/path', ['http://a:1']],
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
      'the path of etcd endpoint "http://a:1/v3" is ignored: etcd\'s API is asked at a:1',
      'the path of etcd endpoint "http://c:3//" is ignored: etcd\'s API is asked at c:3',
    ]);
  });

  it.each([
    ['a:1,b:2', ['https://a:1', 'https://b:2']],
    ['a:1,http://b:2', ['https://a:1', 'https://b:2']],
    ['http://a:1,b:2', ['http://a:1', 'http://b:2']],
  ])('reads %s with TLS when only a certificate can have told', (text, expected) => {
    expect(urls(text, { certificate: true })).toEqual(expected);
  });

  it.each([
    ['', 'it names none'],
    [' , ,', 'it names none'],
    ['http://a', '"http://a" has no port'],
    ['127.0.0.1', '"127.0.0.1" has no port'],
    ['http://a:1,http://b', '"http://b" has no port'],
    ['http://[::1]', '"http://[::1]" has no port'],
    ['::1:2379', 'without brackets'],
    ['http://fc00::1:2379', 'without brackets'],
    ['http://a:', 'no port from 1 to 65535'],
    ['http://a:0', 'no port from 1 to 65535'],
    ['http://a:65536', 'no port from 1 to 65535'],
    ['http://a:port', 'no port from 1 to 65535'],
    ['http://a:-1', 'no port from 1 to 65535'],
    ['unix:///run/etcd.sock', 'neither http nor https'],
    ['etcd://a:2379', 'neither http nor https'],
    ['://a:2379', 'neither http nor https'],
    ['http://:2379', 'no valid host name'],
    ['http://-a:2379', 'no valid host name'],
    ['http://a b:2379', /^must be .*2379; separate endpoints with commas$/],
    ['http://a:2379;http://b:2379', 'separate endpoints with commas'],
    ['http://a:2379 http://b:2379', 'separate endpoints with commas'],
    ['http://a:2379\nhttp://b:2379', 'separate endpoints with commas'],
    ['a:2379|b:2379', 'separate endpoints with commas'],
    ['http://a:2379http://b:2379', 'separate endpoints with commas'],
    ['http://a:2379:2380', 'has more than one port'],
    ['[::1]:2379:2380', 'has more than one port'],
    ['1:2:3:4:5:6:7:8', 'without brackets'],
    ['http://ä:2379', 'no valid host name'],
    ['http://10.0.0.256:2379', 'no valid IPv4 address'],
    ['http://010.0.0.1:2379', 'no valid IPv4 address'],
    ['http://10.1:2379', 'no valid IPv4 address'],
    ['http://[fc00::g]:2379', 'no valid IPv6 address'],
    ['http://[fe80::1%eth0]:2379', 'no valid IPv6 address'],
    ['http://a:1?x=y', 'a query or a fragment'],
    ['http://a:1/#x', 'a query or a fragment'],
  ])('refuses %j: %s', (text, why) => {
    expect(() => urls(text)).toThrow(InvalidValue);
    expect(() => urls(text)).toThrow(why);
  });

  it.each(['http://user:hunter2@a:1', 'bad,http://user:hunter2@a:1'])(
    'does not show the password in %s',
    (text) => {
      try {
        urls(text);
        expect.unreachable();
      } catch (error) {
        expect(error).toMatchObject({ shown: '(not shown)' });
        expect(String(error)).not.toContain('hunter2');
      }
    },
  );

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
