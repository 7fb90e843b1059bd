import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { parseGoBoolean, parseInteger, splitFlags } from '../../src/daemon/options/command-line.ts';
import { UsageError } from '../../src/daemon/options/errors.ts';

const kindOf = (name: string) => (name.startsWith('bool') ? ('boolean' as const) : ('value' as const));
const split = (...argv: string[]) => splitFlags(argv, kindOf);

describe('splitting a command line as Go does', () => {
  it.each([[['-x=1']], [['-x', '1']], [['--x=1']], [['--x', '1']]])('reads %j as x = 1', (argv) => {
    expect(split(...argv)).toEqual({ flags: [{ name: 'x', value: '1' }], rest: [] });
  });

  it('gives a flag the next word whatever it looks like', () => {
    expect(split('-x', '-1', '--y', '--', '-z', '').flags).toEqual([
      { name: 'x', value: '-1' },
      { name: 'y', value: '--' },
      { name: 'z', value: '' },
    ]);
  });

  it('cuts at the first equals sign and keeps an empty value', () => {
    expect(split('-x=a=b', '-y=').flags).toEqual([
      { name: 'x', value: 'a=b' },
      { name: 'y', value: '' },
    ]);
  });

  it('never lets a bare boolean eat the next word, which then ends the flags', () => {
    expect(split('-bool', 'false', '-x=1')).toEqual({
      flags: [{ name: 'bool', value: 'true' }],
      rest: ['false', '-x=1'],
      bareBoolean: 'bool',
    });
    expect(split('-bool', '-x=1', 'word')).not.toHaveProperty('bareBoolean');
    expect(split('-bool=F', 'word')).not.toHaveProperty('bareBoolean');
  });

  it('never lets a flag that is known eat another one', () => {
    const known = (...argv: string[]) => splitFlags(argv, kindOf, (name) => name === 'other');
    expect(() => known('-x', '--other=1')).toThrow(
      '-x needs a value: -x=…, and "--other=…" is a flag of its own',
    );
    expect(() => known('-x', '-other')).toThrow('is a flag of its own');
    expect(known('-x', '--others', '-y', 'other', '-z', '---other').flags).toHaveLength(3);
  });

  it('takes the value of a boolean only after an equals sign', () => {
    expect(split('--bool=F').flags).toEqual([{ name: 'bool', value: 'F' }]);
  });

  it.each([
    ['a word', ['-x=1', 'word', '-y=2'], ['word', '-y=2']],
    ['a lone dash', ['-x=1', '-', '-y=2'], ['-', '-y=2']],
    ['an empty word', ['-x=1', '', '-y=2'], ['', '-y=2']],
    ['two dashes, which vanish', ['-x=1', '--', '-y=2'], ['-y=2']],
  ])('stops at %s', (_, argv, rest) => {
    expect(split(...argv)).toEqual({ flags: [{ name: 'x', value: '1' }], rest });
  });

  it.each(['---x', '-=1', '--=1', '---'])('refuses %s as no flag', (word) => {
    expect(() => split(word)).toThrow(expect.objectContaining({ code: 'USAGE_SYNTAX', exitCode: 2 }));
  });

  it('refuses a flag whose value is missing', () => {
    expect(() => split('-x')).toThrow('-x needs a value: -x=…');
  });

  it('puts every word into a flag or the rest, whatever the words', () => {
    fc.assert(
      fc.property(
        fc.array(
          fc.oneof(
            fc.string(),
            fc.string().map((text) => `-${text}`),
          ),
        ),
        (argv) => {
          try {
            const { flags, rest } = split(...argv);
            expect(argv.slice(argv.length - rest.length)).toEqual(rest);
            expect(flags.length).toBeLessThanOrEqual(argv.length - rest.length);
          } catch (error) {
            expect(error).toBeInstanceOf(UsageError);
          }
        },
      ),
    );
  });
});

describe('Go booleans', () => {
  it.each(['1', 't', 'T', 'true', 'TRUE', 'True'])('reads %s as true', (text) => {
    expect(parseGoBoolean(text)).toBe(true);
  });
  it.each(['0', 'f', 'F', 'false', 'FALSE', 'False'])('reads %s as false', (text) => {
    expect(parseGoBoolean(text)).toBe(false);
  });
  it.each(['', 'yes', 'no', 'on', 'tRUE', ' true', '2'])('refuses %j', (text) => {
    expect(parseGoBoolean(text)).toBeUndefined();
  });
});

describe('integers', () => {
  it.each([
    ['0', 0],
    ['60', 60],
    ['+60', 60],
    ['-60', -60],
    ['-0', 0],
    ['0x10', 16],
    ['-0XfF', -255],
    ['999999999999999', 999_999_999_999_999],
  ])('reads %s as %d', (text, value) => {
    expect(parseInteger(text)).toBe(value);
  });

  it.each(['', ' 1', '1 ', '+', '--1', '010', '0b1', '0o7', '1_000', '1e3', '1.0', '٣', '9'.repeat(16)])(
    'refuses %j',
    (text) => expect(parseInteger(text)).toBeUndefined(),
  );
});
