import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { jsonFault } from '../../src/subnet/config/json.ts';
import { failure } from './config-helpers.ts';

const good = '{"Network":"10.5.0.0/16","Backend":{"Type":"host-gw"}}';
const lines = '{\n  "Network": "10.5.0.0/16",\n  "SubnetLen": 24,\n}';

describe('a fault of JSON in words', () => {
  it.each<readonly [string, string]>([
    ['', 'it is empty'],
    [' \n', 'it is empty'],
    [
      lines,
      'there is a comma too many before the closing } (line 3, column 18, near: …0.5.0.0/16",\\u000a  "SubnetLen": 24,\\u000a})',
    ],
    ['{"a":[1,2,],"b":1}', 'there is a comma too many before the closing ] (character 10, '],
    ['{"a":1,,"b":1}', 'there is a comma too many (character 8, '],
    ['{,"a":1}', 'there is a comma too many (character 2, '],
    ["{'Network':'10.5.0.0/16'}", 'there are single quotes where JSON needs double quotes (character 2, '],
    [`'${good}'`, 'it is in single quotes (character 1, '],
    [`\ufeff${good}`, 'it begins with a byte order mark (BOM) (character 1, near: \\ufeff{"Network"'],
    [`${good}\n${good}`, 'a second document follows the first (line 2, column 1, near: …'],
    [`${good}}`, 'there is a closing } too many (character 55, '],
    [`${good};`, 'more text follows after the end (character 55, '],
    ['{Network:"10.5.0.0/16"}', 'the key Network has no double quotes (character 2, '],
    ['{"Network":10.5.0.0/16}', 'the value 10.5.0.0/16 has no double quotes (character 12, '],
    ['{"IPv6Network":fc00:5::/48}', 'the value fc00:5::/48 has no double quotes (character 16, '],
    ['{"EnableIPv6":True}', 'True is not a JSON word: write true (character 15, '],
    ['{"EnableIPv6":None}', 'None is not a JSON word: write null (character 15, '],
    ['{"EnableIPv6":yes}', 'yes is not a JSON word: write true (character 15, '],
    ['{"EnableIPv6":on-premise}', 'the value on-premise has no double quotes (character 15, '],
    ['{"SubnetLen":024}', '024 is not a JSON number (character 14, '],
    ['{"SubnetLen":+24}', '+24 is not a JSON number (character 14, '],
    ['{"Network":"10.5.0.0/16"', 'the text ends before its closing }: it is cut off (character 25, '],
    ['{"Network":"10.5.0.0/16', 'the quotes are never closed (character 12, '],
    ['{"a":[1', 'the text ends before its closing ]: it is cut off (character 8, '],
    ['{"a":[1}', 'the closing } does not match the bracket that is open (character 8, '],
    ['{"Network" "10.5.0.0/16"}', 'there is " where a colon belongs (character 12, '],
    ['{"Network"="10.5.0.0/16"}', 'there is = where a colon belongs (character 11, '],
    ['{"Network":}', 'a key has no value (character 12, '],
    ['{"Network"}', 'a key has no value (character 11, '],
    ['{"Network":"10.5.0.0/16" "SubnetLen":24}', 'there is no comma before the next quotes (character 26, '],
    ['{"Network":"10.5.0.0/16,"SubnetLen":24}', 'there is no comma before SubnetLen (character 26, '],
    ['{"a"\u00a0:1}', 'there is an odd space or invisible character (\\u00a0) (character 5, '],
    ['{"SubnetLen":\u221224}', 'there is a dash of another kind (\\u2212) (character 14, '],
    ['{\u201cNetwork\u201d:1}', 'there are quotes of another kind (\\u201c) (character 2, '],
    ['{"a":1} // mine', 'there is a comment; JSON allows none (character 9, '],
    ['{"a":"x\ny"}', 'a line ends between quotes (line 1, column 8, '],
    ['{"a":"x\ty"}', 'there is the character \\u0009 between quotes (character 8, '],
    ['{"a":"\\x"}', '\\x between quotes means nothing to JSON (character 7, '],
    ['Network: x', 'it does not begin with an opening brace (character 1, near: Network: x)'],
    ['{"a":\u{1f600}}', 'the value \u{1f600} has no double quotes (character 6, '],
  ])('%j', (text, expected) => {
    const said = jsonFault(text)?.message ?? 'nothing';
    expect(said.slice(0, expected.length)).toBe(expected);
  });

  it('is found exactly where JSON.parse finds one', () => {
    const marks = `{}[],:"'\\-0 \n\u00a0a`.split('');
    const pieces = fc.constantFrom(...marks, 'u00e9', '12.5e3', 'true', 'null');
    const edited = fc.tuple(fc.json(), fc.nat(), fc.nat(3), pieces).map(([json, at, cut, piece]) => {
      const place = at % (json.length + 1);
      return json.slice(0, place) + piece + json.slice(place + cut);
    });
    const texts = fc.oneof(
      fc.json(),
      edited,
      fc.array(pieces, { maxLength: 12 }).map((all) => all.join('')),
      fc.string({ unit: 'binary' }),
    );
    fc.assert(
      fc.property(texts, (text) => {
        let isJson = true;
        try {
          JSON.parse(text);
        } catch {
          isJson = false;
        }
        expect(jsonFault(text) === undefined, text).toBe(isJson);
      }),
      { numRuns: 5_000 },
    );
  }, 60_000);

  it('is found in a megabyte of brackets', () => {
    expect(jsonFault('['.repeat(1_000_000))?.message).toMatch(/^the text ends before its closing ]/);
  });
});

describe('a configuration that is no JSON', () => {
  it('is said to be so in the same words, with what to do', () => {
    expect(failure(`\ufeff${good}`)).toMatchObject({
      message: expect.stringMatching(/^it is not a JSON object: it begins with a byte order mark/),
      remedy: String.raw`Store it without: sed -i '1s/^\xEF\xBB\xBF//' FILE, then etcdctl put KEY < FILE.`,
    });
    expect(failure('')).toMatchObject({
      message: 'it is not a JSON object: the key is empty',
      remedy: 'Store e.g. {"Network":"10.5.0.0/16","Backend":{"Type":"host-gw"}}.',
    });
    const remedies = [
      [good.replace(/}$/, ',}'), 'Remove the comma.'],
      [good.replaceAll('"', "'"), 'Use double quotes.'],
      [`'${good}'`, 'Remove the single quotes around it.'],
      [good.replaceAll('"', ''), 'Use double quotes (").'],
      [good.slice(0, -1), 'Store the whole text, to its end.'],
      [`${good} # mine`, 'Remove the comment.'],
      ['[1]', 'Write its keys and values in braces.'],
      [`{"Network":${'['.repeat(10_001)}${']'.repeat(10_001)}}`, 'Correct the text, and keep its Network.'],
    ] as const;
    for (const [text, remedy] of remedies) expect(failure(text).remedy).toBe(remedy);
    expect(failure('[1]').message).toMatch(/: it is JSON, but not an object in braces$/);
  });

  it('shows spaces and dashes that are not ASCII', () => {
    const { message } = failure(good.replace('/16', '/16\u00a0'));
    expect(message).toContain('Network is "10.5.0.0/16\\u00a0"');
    expect(failure(good.replace('t-g', 't\u2013g')).message).toContain('Backend.Type is "host\\u2013gw"');
  });
});
