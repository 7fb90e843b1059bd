import { beforeEach, describe, expect, it, test } from 'vitest';
import type { LeaseWorld } from '../../sim/lease-world.ts';
import { valueOf } from '../../sim/leases.ts';
import { checkConfig } from '../../src/cli/config/check.ts';
import { editConfig } from '../../src/cli/config/edit.ts';
import { type ConfigParts, showConfig, showHistory } from '../../src/cli/config/read.ts';
import { type StoreParts, setConfig } from '../../src/cli/config/store.ts';
import { rotate } from '../../src/subnet/registry/rotation.ts';
import { withBackend } from './config-helpers.ts';
import { makeWorld } from './sim-worlds.ts';

const key = '/net/config';
const wide = withBackend('"Network":"10.1.0.0/16"');
const narrow = withBackend('"Network":"10.1.0.0/16","SubnetMax":"10.1.99.0"');

let world: LeaseWorld;
let lines: string[];
let errors: string[];

beforeEach(() => {
  world = makeWorld();
  lines = [];
  errors = [];
});

const text = () => lines.join('\n').replaceAll(/\s+/g, ' ');
const json = () => JSON.parse(lines.join('\n'));

type Asked = Partial<StoreParts> & { readonly before?: (call: string) => void };

async function run(
  command: (parts: StoreParts, signal: AbortSignal) => Promise<number>,
  { before = () => {}, ...asked }: Asked = {},
): Promise<number> {
  const registry = rotate(world.etcd.connect('admin'));
  const txn = registry.txn.bind(registry);
  registry.txn = (...args) => {
    before('txn');
    return txn(...args);
  };
  const parts: StoreParts = {
    registry,
    oldStore: { has: async () => false },
    etcdPrefix: '/net',
    json: false,
    colors: false,
    yes: false,
    dryRun: false,
    out: (line) => void lines.push(line),
    err: (line) => void errors.push(line),
    ...asked,
  };
  const code = await world.clock.complete(command(parts, new AbortController().signal));
  registry.close();
  return code;
}

const set = (content: string, asked: Asked = { yes: true }) =>
  run((parts, signal) => setConfig(parts, { name: 'net.json', text: content }, signal), asked);
const show = (parts: ConfigParts, signal: AbortSignal) => showConfig(parts, signal);
const history = (parts: ConfigParts, signal: AbortSignal) => showHistory(parts, signal);

describe('config show', () => {
  it('shows the values that count, and which of them are given', async () => {
    world.etcd.put(key, narrow);
    expect(await run(show)).toBe(0);
    expect(lines).toEqual([
      `${key} at http://etcd-0:2379, revision 2`,
      '',
      'KEY             VALUE        FROM',
      'EnableIPv4      true         default',
      'Network         10.1.0.0/16  given',
      'SubnetLen       24           default',
      'SubnetMin       10.1.1.0     default',
      'SubnetMax       10.1.99.0    given',
      'EnableIPv6      false        default',
      'EnableNFTables  false        default',
      'Backend.Type    host-gw      given',
    ]);
  });

  it('counts what stands for the default as not given', async () => {
    world.etcd.put(
      key,
      withBackend('"network":"10.1.0.0/16","SubnetLen":0,"SubnetMin":null,"SubnetMax":"0.0.0.0"'),
    );
    expect(await run(show, { json: true })).toBe(0);
    const { values, revision } = json();
    const given = values
      .filter((one: { given: boolean }) => one.given)
      .map((one: { key: string }) => one.key);
    expect([given, revision]).toEqual([['Network', 'Backend.Type'], 2]);
  });

  it.each([
    [undefined, /no network configuration at \/net\/config/],
    ['{', /cut off/],
    [`\ufeff${wide}`, /byte order mark/],
  ])('exits 1 and says why when it is %j', async (stored, said) => {
    if (stored !== undefined) world.etcd.put(key, stored);
    expect(await run(show)).toBe(1);
    expect([...lines, ...errors].join('\n')).toMatch(said);
    lines = [];
    expect(await run(show, { json: true })).toBe(1);
    expect(lines).toHaveLength(1);
    expect(json()).toEqual(expect.anything());
  });
});

test.each([
  ['show', show],
  ['history', history],
  ['set', (parts: StoreParts, signal: AbortSignal) => setConfig(parts, { name: 'f', text: wide }, signal)],
])('config %s exits 3 when etcd cannot be asked, and says why', async (_, command) => {
  world.etcd.stop('etcd-0');
  expect(await run(command)).toBe(3);
  expect(errors.join()).toContain('connection refused');
  expect(await run(command, { json: true })).toBe(3);
  expect(json()).toMatchObject({ code: 'ETCD_UNAVAILABLE', error: expect.stringContaining('refused') });
});

describe('config validate', () => {
  const check = (content: string, asJson = false) => {
    const out = (line: string) => void lines.push(line);
    return checkConfig({ out, err: out, json: asJson, colors: false }, { name: 'net.json', text: content });
  };

  it('prints all faults in 80 columns, and exits 1', () => {
    expect(check(`{"Network":"10.1.0.0/16","Netwrok":1,"SubnetLen":"24",\n'Backend':{"Type":"vxlan"}}`)).toBe(
      1,
    );
    expect(lines).toEqual([
      'net.json: 3 faults',
      '  line 1, column 50: SubnetLen is "24": it must be a whole number of bits in',
      '    plain digits. Write it like "SubnetLen": 24, without quotes.',
      '  line 2, column 1: there are single quotes where JSON needs double quotes. Use',
      '    double quotes.',
      '  line 2, column 19: Backend.Type is "vxlan": only "host-gw" is supported. Set',
      '    "Backend": {"Type": "host-gw"}; every host of the cluster must use the same',
      '    backend.',
      'warnings:',
      '  line 1, column 26: unknown key "Netwrok" is ignored; did you mean Network?',
      'flanneld refuses it, too',
    ]);
  });

  it('says valid, and exits 0', () => {
    expect(check(wide)).toBe(0);
    expect(lines.slice(0, 2)).toEqual(['net.json: valid', 'flanneld accepts it, too']);
    expect(text()).toContain('SubnetMax 10.1.255.0 default');
  });

  it('prints JSON', () => {
    expect(check(withBackend('"Network":1'), true)).toBe(1);
    expect(json()).toMatchObject({
      valid: false,
      faults: [{ code: 'CONFIG_TYPE', key: 'Network', place: { line: 1, column: 12 } }],
      flanneld: { accepts: false },
    });
  });
});

describe('config set', () => {
  it('stores the first configuration, without its byte order mark', async () => {
    expect(await set(`\ufeff${wide}\r\n`)).toBe(0);
    expect(world.etcd.get(key)?.value).toBe(wide);
    expect(text()).toContain('stored /net/config at revision 2');
  });

  it('shows what changes and which leases no longer fit, asks, and heeds the answer', async () => {
    world.etcd.put(key, wide);
    world.put('10.1.5.0-24', valueOf('10.211.0.1'));
    world.put('10.1.200.0-24', valueOf('10.211.0.2'));
    world.put('10.9.0.0-24', valueOf('10.211.0.3'));
    world.put('junk', 'junk');
    const questions: string[] = [];
    const confirm = (yes: boolean) => async (question: string) => {
      questions.push(`${question} after ${lines.length} lines`);
      return yes;
    };
    expect(await set(narrow, { confirm: confirm(false) })).toBe(1);
    expect(lines).toEqual([
      '/net/config:',
      '  SubnetMax 10.1.255.0 → 10.1.99.0',
      '2 of 4 leases do not fit; their hosts take a new subnet at the next start:',
      '  10.1.200.0/24 of 10.211.0.2: outside SubnetMin 10.1.1.0 to SubnetMax 10.1.99.0',
      '  10.9.0.0/24 of 10.211.0.3: outside Network 10.1.0.0/16 (it does not fit now',
      '    either)',
      'nothing was stored',
    ]);
    expect(questions).toEqual(['Store it? after 6 lines']);
    expect(world.etcd.get(key)?.value).toBe(wide);
    expect(await set(narrow, { confirm: confirm(true) })).toBe(0);
    expect(world.etcd.get(key)?.value).toBe(narrow);
    expect(text()).toContain('applies it at its next start');
  });

  it('needs --yes where nobody can be asked', async () => {
    expect(await set(wide, {})).toBe(2);
    expect(errors.join()).toContain('--yes');
    expect(world.etcd.get(key)).toBeUndefined();
  });

  it('stores nothing in a dry run, nor a text with a fault, nor the same text again', async () => {
    world.etcd.put(key, wide);
    const before = world.etcd.revision;
    expect(await set(narrow, { dryRun: true })).toBe(0);
    expect(text()).toContain('dry run: nothing was stored');
    expect(await set('{"Network":1}', { yes: true })).toBe(1);
    expect(errors.join('\n')).toContain('Network is 1');
    expect(await set(wide)).toBe(0);
    expect(text()).toContain('etcd has this very text');
    expect(world.etcd.revision).toBe(before);
  });

  it.each([
    ['there is one already', wide],
    ['there is none yet', undefined],
  ])('stores nothing when somebody changes it in the same moment and %s', async (_, stored) => {
    if (stored !== undefined) world.etcd.put(key, stored);
    const before = () => world.etcd.put(key, 'theirs');
    expect(await set(narrow, { yes: true, before })).toBe(1);
    expect(world.etcd.get(key)?.value).toBe('theirs');
    expect(text()).toContain('somebody else changed /net/config meanwhile');
  });

  it.each([
    [true, 0],
    [false, 3],
  ])('reads back when the answer is lost (applied: %s)', async (applied, code) => {
    world.etcd.put(key, wide);
    const before = () => world.etcd.loseNextReply({ applied });
    expect(await set(narrow, { yes: true, before })).toBe(code);
    expect(world.etcd.get(key)?.value).toBe(applied ? narrow : wide);
  });

  it('mends a configuration that cannot be used', async () => {
    world.etcd.put(key, '{');
    expect(await set(wide)).toBe(0);
    expect(text()).toContain('the one before could not be used');
  });

  it('prints JSON', async () => {
    world.etcd.put(key, wide);
    world.put('10.1.200.0-24', valueOf('10.211.0.2'));
    expect(await set(narrow, { yes: true, json: true })).toBe(0);
    expect(json()).toMatchObject({
      stored: true,
      revision: world.etcd.revision,
      changes: ['SubnetMax 10.1.255.0 → 10.1.99.0'],
      misfits: [{ subnet: '10.1.200.0/24', host: '10.211.0.2', fitsNow: true }],
    });
  });
});

describe('config edit', () => {
  let files: { text: string; removed: boolean }[];

  /** Each edit of the operator takes the text before it. */
  const edit = (edits: readonly ((before: string) => string)[], asked: Asked = { yes: true }) => {
    files = [];
    const draft = async (first: string) => {
      const file = { text: first, removed: false };
      files.push(file);
      let edited = 0;
      return {
        path: '/tmp/x/config.json',
        async edit() {
          const change = edits[edited++];
          if (change === undefined) throw new Error('vi ended with exit code 1');
          file.text = change(file.text);
          return file.text;
        },
        async remove() {
          file.removed = true;
        },
      };
    };
    return run((parts, signal) => editConfig({ ...parts, draft }, signal), asked);
  };

  it('offers the configuration line by line, and stores what was made of it', async () => {
    world.etcd.put(key, narrow);
    expect(await edit([(before) => before.replace('10.1.99.0', '10.1.98.0')])).toBe(0);
    expect(world.etcd.get(key)?.value).toContain('\n  "SubnetMax": "10.1.98.0",\n');
    expect(files).toMatchObject([{ removed: true }]);
  });

  it('offers an example where there is none, and changes nothing when nothing was changed', async () => {
    expect(await edit([(before) => before])).toBe(0);
    expect(files).toMatchObject([{ text: expect.stringContaining('host-gw'), removed: true }]);
    expect(world.etcd.get(key)).toBeUndefined();
    expect(await edit([(before) => before.replace('10.244', '10.99')])).toBe(0);
    expect(world.etcd.get(key)?.value).toContain('10.99');
  });

  it('keeps a text as it is that could lose something', async () => {
    world.etcd.put(key, '{"Network":"10.1.0.0/16","Network":"10.2.0.0/16"}');
    await edit([(before) => before]);
    expect(files[0]?.text).toBe('{"Network":"10.1.0.0/16","Network":"10.2.0.0/16"}\n');
  });

  it('lets a text with a fault be edited again, or keeps it', async () => {
    world.etcd.put(key, wide);
    const wrong = (before: string) => before.replace('"10.1.0.0/16"', '1');
    const right = () => narrow;
    const yes = async () => true;
    expect(await edit([wrong, right], { confirm: yes })).toBe(0);
    expect(errors.join('\n')).toContain('Network is 1');
    expect(world.etcd.get(key)?.value).toBe(narrow);
    expect(await edit([wrong])).toBe(1);
    expect(errors.at(-1)).toBe('nothing was stored; your text is in /tmp/x/config.json');
    expect(files).toMatchObject([{ removed: false }]);
  });

  it('stores nothing when somebody changed it while the editor was open', async () => {
    world.etcd.put(key, wide);
    const change = () => {
      world.etcd.put(key, narrow);
      return withBackend('"Network":"10.2.0.0/16"');
    };
    expect(await edit([change])).toBe(1);
    expect(world.etcd.get(key)?.value).toBe(narrow);
    expect(errors.at(-1)).toBe('your text is in /tmp/x/config.json');
  });

  it('stores nothing when the editor fails', async () => {
    world.etcd.put(key, wide);
    expect(await edit([])).toBe(1);
    expect(errors.join()).toContain('the editor failed: vi ended with exit code 1');
    expect(files).toMatchObject([{ removed: true }]);
  });
});

describe('config history', () => {
  it('follows the versions back to the first', async () => {
    for (const one of [wide, '{', narrow, `${narrow} `]) {
      world.etcd.put(key, one);
      world.etcd.put('/other', one);
    }
    expect(await run(history)).toBe(0);
    expect(lines.slice(0, 6)).toEqual([
      'REVISION  CHANGE',
      '8         written again, means the same',
      '6         the one before could not be used, 10.1.0.0/16',
      '4         it cannot be used',
      '2         created: {"Network":"10.1.0.0/16","Backend":{"Type":"host-gw"}}',
      expect.stringContaining('etcd keeps no times'),
    ]);
  });

  it('says that older ones are compacted', async () => {
    world.etcd.put(key, wide);
    world.etcd.put(key, narrow);
    world.etcd.put(key, wide);
    world.etcd.compact(3);
    expect(await run(history, { json: true })).toBe(0);
    expect(json()).toMatchObject({
      beginning: 'compacted',
      versions: [
        { revision: 4, changes: ['SubnetMax 10.1.99.0 → 10.1.255.0'] },
        { revision: 3, text: narrow },
      ],
    });
    lines = [];
    expect(await run(history)).toBe(0);
    expect(text()).toContain('etcd has compacted what was before');
  });

  it('begins anew with a key that was deleted and put again', async () => {
    world.etcd.put(key, wide);
    world.etcd.delete(key);
    world.etcd.put(key, narrow);
    expect(await run(history, { json: true })).toBe(0);
    expect(json()).toMatchObject({ beginning: 'created', versions: [{ text: narrow }] });
  });
});

it('colours are for a terminal', async () => {
  world.etcd.put(key, wide);
  expect(await run(show, { colors: true })).toBe(0);
  expect(lines.join('\n')).toContain('\u001b[1mKEY');
});
