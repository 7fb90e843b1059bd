import { expect, it } from 'vitest';
import { prefixEnd } from '../../src/subnet/registry/registry.ts';
import { put, putAll, rejectionOf, type Suite } from './registry-suite.ts';

export function rangeContract({ subject, registry, freshPrefix, write, read }: Suite): void {
  it('answers an absent key with nothing, and with the revision and the cluster it speaks for', async () => {
    const { kvs, more, header } = await registry().range({ key: `${freshPrefix()}absent` });
    expect({ kvs, more }).toEqual({ kvs: [], more: false });
    expect(header.clusterId).toMatch(/^[1-9]\d*$/);
    expect(header.revision).toBeGreaterThanOrEqual(1);
  });

  it('reads one key: value, revisions, no lease', async () => {
    const key = `${freshPrefix()}a`;
    const created = await putAll(registry(), { [key]: 'ä "1"' });
    const modified = await putAll(registry(), { [key]: 'ö "2"' });
    const { kvs, header } = await registry().range({ key });
    expect(kvs).toEqual([
      { key, value: 'ö "2"', createRevision: created, modRevision: modified, lease: '0' },
    ]);
    expect(header.revision).toBe(modified);
  });

  it('counts a key that was deleted in between as created anew', async () => {
    const key = `${freshPrefix()}a`;
    await putAll(registry(), { [key]: '1' });
    await write({ op: 'delete', key });
    const revision = await putAll(registry(), { [key]: '2' });
    expect(await read(key)).toMatchObject([{ createRevision: revision, modRevision: revision }]);
  });

  it('reads [key, end) in the byte order of the keys, and nothing beside it', async () => {
    const prefix = freshPrefix();
    const sorted = [
      '10.5.1.0-24',
      '10.5.1.0-24&fc00::-64',
      '10.5.10.0-24',
      'z',
      'ä',
      '\u{ffff}',
      '\u{1f600}',
    ];
    const written = [0, 2, 1, 3, 5, 6, 4].map((place) => sorted[place] ?? '');
    await putAll(registry(), Object.fromEntries(written.map((name) => [prefix + name, name])));
    const beside = prefix.slice(0, -1);
    await putAll(registry(), { [`${beside}-old/x`]: 'outside', [beside]: 'outside' });
    const found = await read(prefix);
    expect(found.map(({ key }) => key)).toEqual(sorted.map((name) => prefix + name));
    expect(found.map(({ value }) => value)).toEqual(sorted);
  });

  it('cuts the answer at the limit and says so', async () => {
    const prefix = freshPrefix();
    await putAll(registry(), { [`${prefix}a`]: '1', [`${prefix}b`]: '2', [`${prefix}c`]: '3' });
    const rangeEnd = prefixEnd(prefix);
    const limited = async (limit: number) => {
      const answer = await registry().range({ key: prefix, rangeEnd, limit });
      return [answer.kvs.map(({ value }) => value), answer.more];
    };
    expect(await limited(2)).toEqual([['1', '2'], true]);
    for (const limit of [3, 0]) expect(await limited(limit)).toEqual([['1', '2', '3'], false]);
  });

  it('pages through one revision while keys change', async () => {
    const prefix = freshPrefix();
    const [a, b, c] = ['a', 'b', 'c'].map((name) => prefix + name) as [string, string, string];
    const revision = await putAll(registry(), { [a]: '1', [b]: '2', [c]: '3' });
    await putAll(registry(), { [`${prefix}aa`]: 'new', [c]: 'changed' });
    await write({ op: 'delete', key: b });
    const rangeEnd = prefixEnd(prefix);
    const first = await registry().range({ key: prefix, rangeEnd, limit: 1, revision });
    const rest = await registry().range({ key: `${a}\0`, rangeEnd, limit: 5, revision });
    expect([...first.kvs, ...rest.kvs].map(({ value }) => value)).toEqual(['1', '2', '3']);
    expect([first.more, rest.more]).toEqual([true, false]);
    expect(rest.header.revision).toBeGreaterThan(revision);
  });

  it('leaves values out when only keys are asked for', async () => {
    const prefix = freshPrefix();
    const revision = await putAll(registry(), { [`${prefix}a`]: '1' });
    const { kvs } = await registry().range({ key: prefix, rangeEnd: prefixEnd(prefix), keysOnly: true });
    expect(kvs).toEqual([
      { key: `${prefix}a`, value: '', createRevision: revision, modRevision: revision, lease: '0' },
    ]);
  });

  it('refuses a compacted revision, and still reads the compacted one itself', async () => {
    const key = `${freshPrefix()}a`;
    const old = await putAll(registry(), { [key]: '1' });
    const compacted = await putAll(registry(), { [key]: '2' });
    await putAll(registry(), { [key]: '3' });
    await subject().compact(compacted);
    const error = await rejectionOf(registry().range({ key, revision: old }));
    expect(error).toMatchObject({ kind: 'COMPACTED', outcomeUnknown: false });
    expect((await registry().range({ key, revision: compacted })).kvs).toMatchObject([{ value: '2' }]);
    expect(await read(key)).toMatchObject([{ value: '3' }]);
  });

  it('refuses a revision that is still to come', async () => {
    const revision = await write(put(`${freshPrefix()}a`, '1'));
    const error = await rejectionOf(registry().range({ key: 'a', revision: revision + 1_000 }));
    expect(error.kind).toBe('PROTOCOL');
  });
}
