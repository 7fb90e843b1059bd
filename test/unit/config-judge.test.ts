import fc from 'fast-check';
import { describe, expect, it, test } from 'vitest';
import { NetworkConfigError, parseNetworkConfig } from '../../src/subnet/config/config.ts';
import { judgeConfig } from '../../src/subnet/config/judge.ts';
import { mendJson } from '../../src/subnet/config/mend.ts';
import { withBackend } from './config-helpers.ts';

const network = '"Network":"10.5.0.0/16"';
const good = withBackend(network);

/** Each fault as `line:column text`. */
function faults(text: string): readonly string[] {
  return judgeConfig(text).faults.map(({ text: said, place }) => {
    const where = place === undefined ? '-' : `${place.line}:${place.column}`;
    return `${where} ${said}`;
  });
}

test('all faults are found at once, by their place', () => {
  const text = [
    '{',
    '  // the network',
    "  'Network': '10.5.0.0/16',",
    '  "SubnetLen": "24",',
    '  "SubnetMin": "10.6.0.0",',
    '  "EnableNFTables": "yes",',
    '  "Backend": { "Type": "vxlan", },',
    '}',
  ].join('\r\n');
  expect(faults(text)).toEqual([
    '2:3 there is a comment; JSON allows none',
    '3:3 there are single quotes where JSON needs double quotes',
    '3:14 there are single quotes where JSON needs double quotes',
    expect.stringMatching(/^4:16 SubnetLen is "24": it must be a whole number .* in plain digits$/),
    '5:16 SubnetMin is 10.6.0.0: it must lie inside Network 10.5.0.0/16',
    expect.stringMatching(/^6:21 EnableNFTables is "yes": it must be true or false, without quotes$/),
    expect.stringMatching(/^7:24 Backend.Type is "vxlan"/),
    '7:31 there is a comma too many before the closing }',
    '7:34 there is a comma too many before the closing }',
  ]);
  expect(judgeConfig(text)).not.toHaveProperty('config');
});

describe('a mistake in the syntax', () => {
  it.each([
    ['a trailing comma', good.replace(/}$/, ',}'), /a comma too many before the closing }/],
    ['a comment at the end of a line', good.replace(',', ', // net\n'), /a comment; JSON allows none/],
    ['a comment of a shell', good.replace(',', ',\n# net\n'), /a comment/],
    ['a comment over lines', good.replace(',', ',/* net\n net */'), /a comment/],
    ['single quotes', good.replaceAll('"', "'"), /single quotes where JSON needs double/],
    ['single quotes around all of it', `'${good}'`, /it is in single quotes/],
    [
      'quotes of a word processor',
      good.replace('"Network"', '\u201cNetwork\u201d'),
      /quotes of another kind/,
    ],
    ['a missing comma', good.replace(',', ' '), /no comma before the next quotes/],
    ['a word of Python', good.replace('{', '{"EnableIPv6":False,'), /False is not a JSON word/],
    ['a space that only looks like one', good.replace(':', ':\u00a0'), /an odd space/],
  ])('%s hides none of the other faults', (_, text, expected) => {
    for (const said of faults(text)) expect(said).toMatch(expected);
    expect(faults(text)).not.toEqual([]);
    const worse = text.replace('host-gw', 'vxlan');
    expect(faults(worse)).toHaveLength(faults(text).length + 1);
    expect(faults(worse).join()).toContain('Backend.Type is "vxlan"');
  });

  it('that nobody can mend for sure is the last one told', () => {
    expect(faults('{"SubnetLen":024,"Network":1}')).toEqual(['1:14 024 is not a JSON number']);
    expect(faults(good.slice(0, -1))).toEqual([
      expect.stringMatching(/^1:\d+ the text ends before its closing }: it is cut off$/),
    ]);
    expect(judgeConfig(' \n').faults).toMatchObject([
      { text: 'it is empty', remedy: expect.stringContaining('Write e.g. {') },
    ]);
    expect(faults('[1]')).toEqual([expect.stringMatching(/^- it is not a JSON object/)]);
  });

  it('counts only so often', () => {
    expect(faults(`{${',,'.repeat(100)}}`).length).toBeLessThanOrEqual(20);
  });
});

describe('values', () => {
  it('CRLF and blanks are in order', () => {
    const { config, text } = judgeConfig(`\r\n${good.replaceAll(',', ',\r\n')}\r\n\n`);
    expect(config?.ipv4?.network.text).toBe('10.5.0.0/16');
    expect(text).toBe(good.replaceAll(',', ',\r\n'));
  });

  it('a missing key has no place, and what follows from a fault is not told', () => {
    expect(faults('{"SubnetMin":"10.5.1.0"}')).toEqual([
      expect.stringMatching(/^- Backend is missing/),
      expect.stringMatching(/^- Network is missing/),
    ]);
    expect(faults(withBackend('"Network":"10.5.0.0/33","SubnetLen":31,"SubnetMin":"10.5.1.1"'))).toEqual([
      expect.stringMatching(/^1:12 Network is "10.5.0.0\/33"/),
    ]);
  });

  it('both bounds and both families are looked at', () => {
    expect(
      faults(
        withBackend(
          `${network},"SubnetMin":"10.5.1.1","SubnetMax":"10.9.0.0","EnableIPv6":true,"IPv6SubnetLen":"64"`,
        ),
      ).map((said) => said.split(' ', 2)[1]),
    ).toEqual(['SubnetMin', 'SubnetMax', 'IPv6SubnetLen', 'IPv6Network']);
  });

  it('of a key that stands twice the last one is shown, which counts', () => {
    expect(faults(withBackend(`${network},"subnetlen":31,\n"SubnetLen":32`))).toEqual([
      expect.stringMatching(/^2:13 SubnetLen is 32/),
    ]);
    expect(judgeConfig(withBackend(`${network},"Network":"10.6.0.0/16",\n"Netwrok":1`)).warnings).toEqual([
      { text: expect.stringContaining('did you mean Network?'), place: { line: 2, column: 1 } },
      { text: expect.stringContaining('more than once'), place: { line: 1, column: 26 } },
    ]);
  });
});

describe('a byte order mark', () => {
  it('is accepted in what somebody gives, and not stored', () => {
    const { config, text, faults: none, flanneld } = judgeConfig(`\ufeff${good}`);
    expect([config === undefined, text, none]).toEqual([false, good, []]);
    expect(flanneld).toMatchObject({ accepts: false, notes: [expect.stringContaining('byte order mark')] });
    expect(judgeConfig('\ufeff{"Network":1}').faults[0]?.place).toEqual({ line: 1, column: 12 });
  });

  it('is a fault in etcd', () => {
    expect(judgeConfig(`\ufeff${good}`, { isStored: true }).faults).toMatchObject([
      { text: 'it begins with a byte order mark (BOM)' },
    ]);
  });
});

describe('flanneld', () => {
  it.each<[string, string, boolean, RegExp[]]>([
    ['what is right', good, true, []],
    ['a number in quotes', withBackend(`${network},"SubnetLen":"24"`), false, []],
    ['no backend', `{${network}}`, true, [/uses udp/]],
    ['another backend', good.replace('host-gw', 'VXLAN'), true, [/would use the backend vxlan/]],
    ['a backend that nobody has', good.replace('host-gw', 'hostgw'), false, []],
    [
      'bounds in the wrong order',
      withBackend(`${network},"SubnetMin":"10.5.9.0","SubnetMax":"10.5.8.0"`),
      true,
      [/out of subnets/],
    ],
    [
      'the same and a fault',
      withBackend(`${network},"SubnetMin":"10.5.9.0","SubnetMax":"10.5.8.0","EnableIPv6":1`),
      false,
      [],
    ],
    ['an unknown key', withBackend(`${network},"x":1`), true, [/ignores unknown keys without a word/]],
    [
      'both families',
      withBackend(`${network},"EnableIPv6":true,"IPv6Network":"fc00::/48"`),
      true,
      [/without IPv6 crashes/],
    ],
  ])('%s', (_, text, accepts, notes) => {
    const { flanneld } = judgeConfig(text);
    expect(flanneld).toEqual({ accepts, notes: notes.map((note) => expect.stringMatching(note)) });
  });
});

describe('any text', () => {
  const pieces = fc.constantFrom(
    ...`{}[],:"'#/*-0 \n\u00a0\u201c\u201d`.split(''),
    ...'// /* */ None True 24 "SubnetLen" "10.5.1.0" null'.split(' '),
    good,
  );
  const edited = fc.tuple(fc.nat(), fc.nat(5), pieces).map(([at, cut, piece]) => {
    const start = withBackend(`${network},"SubnetLen":24,\n"SubnetMin":"10.5.1.0","EnableIPv6":false`);
    const place = at % (start.length + 1);
    return start.slice(0, place) + piece + start.slice(place + cut);
  });
  const texts = fc.oneof(
    edited,
    fc.array(pieces, { maxLength: 12 }).map((all) => all.join('')),
  );

  it('is accepted exactly when the daemon accepts it; else there is a fault, and its place is in the text', () => {
    let accepted = 0;
    fc.assert(
      fc.property(texts, (text) => {
        let isGood = true;
        try {
          parseNetworkConfig(text);
        } catch (error) {
          if (!(error instanceof NetworkConfigError)) throw error;
          isGood = false;
        }
        const { config, faults: found } = judgeConfig(text);
        expect([config !== undefined, found.length === 0], text).toEqual([isGood, isGood]);
        const lines = text.split('\n');
        for (const { place } of found)
          if (place !== undefined)
            expect(place.column, text).toBeLessThanOrEqual((lines[place.line - 1] ?? '').length + 1);
        accepted += Number(isGood);
      }),
      { numRuns: 5_000 },
    );
    expect(accepted).toBeGreaterThan(50);
  });

  it('keeps its lines and columns when it is mended', () => {
    fc.assert(
      fc.property(texts, (text) => {
        const { text: mended = text } = mendJson(text);
        expect(mended.length).toBe(text.length);
        const breaks = (one: string) => [...one.matchAll(/\n/g)].map(({ index }) => index);
        expect(breaks(mended)).toEqual(breaks(text));
        if (mended !== text) expect(() => JSON.parse(mended)).not.toThrow();
      }),
      { numRuns: 3_000 },
    );
  });
});
