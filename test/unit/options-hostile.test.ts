import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { UsageError } from '../../src/daemon/options/errors.ts';
import { environmentName } from '../../src/daemon/options/flag.ts';
import { parseOptions } from '../../src/daemon/options/options.ts';
import { flagTable } from '../../src/daemon/options/table.ts';
import type { Env } from './options-run.ts';

const inherited = ['__proto__', 'constructor', 'prototype', 'toString', 'hasOwnProperty', 'then', 'valueOf'];
// The help text is laid out anew each time, and tells nothing here.
const names = flagTable.map(({ name }) => name).filter((name) => name !== 'help');
const numbers = [
  '1e309',
  '9'.repeat(400),
  '0x' + 'f'.repeat(40),
  '-0',
  '0b',
  '1_0',
  'NaN',
  'Infinity',
  '٣',
  '18446744073709551616',
];
const texts = fc.oneof(
  fc.constantFrom(
    ...numbers,
    ...inherited,
    '\0',
    '\ud800',
    '../../etc/passwd',
    '%s%n',
    '$(reboot)',
    'x'.repeat(100_000),
  ),
  fc.string({ unit: 'binary', maxLength: 20 }),
);
const flag = fc
  .tuple(fc.constantFrom('-', '--', '---', '–'), fc.constantFrom(...names, ...inherited), texts)
  .map(([dashes, name, value]) => `${dashes}${name}=${value}`);
const command = fc.constantFrom<readonly string[]>(
  [],
  ['health'],
  ['doctor'],
  ['lease', 'release'],
  ['lease'],
  ['cleanup'],
  ['help'],
  ['version'],
  ['statsu'],
);
const word = fc.oneof(flag, texts, fc.constantFrom(...names.map((name) => `--${name}`), '--', '-', '', '='));

/** What is said: warnings, the error, or nothing. Fails when something else than a UsageError is thrown. */
async function said(argv: readonly string[], env: Env): Promise<readonly string[]> {
  try {
    const parsed = await parseOptions({ argv, env });
    return 'warnings' in parsed ? parsed.warnings : [];
  } catch (error) {
    expect(error).toBeInstanceOf(UsageError);
    return [String(error)];
  }
}

describe('any command line', () => {
  it('of any command is understood or a usage error of one line, and changes no prototype', async () => {
    const before = Reflect.ownKeys(Object.prototype);
    await fc.assert(
      fc.asyncProperty(command, fc.array(word, { maxLength: 5 }), async (words, rest) => {
        for (const line of await said([...words, ...rest], {}))
          expect(line).not.toMatch(/[\p{Cc}\u2028\u2029]/u);
      }),
      { numRuns: 300 },
    );
    expect(Reflect.ownKeys(Object.prototype)).toEqual(before);
  });

  it.each(inherited)('does not take --%s for a flag', async (name) => {
    await expect(parseOptions({ argv: [`--${name}=1`], env: {} })).rejects.toMatchObject({
      code: 'USAGE_UNKNOWN_FLAG',
    });
    await expect(parseOptions({ argv: [name], env: {} })).rejects.toMatchObject({
      code: 'USAGE_UNKNOWN_COMMAND',
    });
  });

  it('of a megabyte, or of very many words, is done with at once', async () => {
    const startedMs = performance.now();
    await said(['x'.repeat(1_000_000)], {});
    await said([`--${'x'.repeat(1_000_000)}`], {});
    await said([`--etcd-endpoints=${'http://a:1,'.repeat(20_000)}`], {});
    await said(
      Array.from({ length: 5_000 }, (_, index) => `--iface=eth${index}`),
      {},
    );
    await said(
      [],
      Object.fromEntries(Array.from({ length: 500 }, (_, index) => [`FLANNELD_X${index}`, 'x'])),
    );
    expect(performance.now() - startedMs).toBeLessThan(10_000);
  });
});

describe('a password', () => {
  // Long and odd enough never to be part of anything else that is said.
  const secret = fc.string({ unit: fc.constantFrom(...'q7Z#~'.split('')), minLength: 8, maxLength: 20 });
  const variable = fc.constantFrom(
    'FLANNELD_ETCD_PASSWORD',
    'FLANNELD_ETCD_PASWORD',
    'FLANNELD_PASSWORD',
    'FLANNEL_ETCD_PASSWORD',
  );
  const harmless = fc.constantFrom(
    '-v=1',
    '--ip-masq',
    '--iface=eth0',
    '--etcd-username=root',
    '--healthz-port=x',
    '-v',
    '--',
    'start',
    '--no-such',
  );
  const others = fc.dictionary(
    fc.constantFrom(...flagTable.map(environmentName).filter((name) => !name.includes('PASSWORD'))),
    fc.constantFrom('', '1', 'x', 'true', 'http://127.0.0.1:2379'),
    { maxKeys: 3 },
  );

  it('is never repeated, wherever it is given and whatever else is wrong', async () => {
    const place = fc.constantFrom('variable', '=', 'word', 'endpoint');
    await fc.assert(
      fc.asyncProperty(
        command,
        place,
        secret,
        variable,
        fc.array(harmless, { maxLength: 4 }),
        others,
        async (words, where, password, name, rest, env) => {
          const given = {
            variable: [],
            '=': [`--etcd-password=${password}`],
            word: ['--etcd-password', password],
            endpoint: [`--etcd-endpoints=http://root:${password}@127.0.0.1:2379`],
          }[where];
          const variables = where === 'variable' ? { ...env, [name]: password } : env;
          expect((await said([...words, ...given, ...rest], variables)).join(' ')).not.toContain(password);
          expect((await said([...words, ...rest, ...given], variables)).join(' ')).not.toContain(password);
        },
      ),
      { numRuns: 300 },
    );
  });
});
