import { expect, it } from 'vitest';
import { prefixEnd } from '../../src/subnet/registry/registry.ts';
import { put, putAll, rejectionOf, type Suite } from './registry-suite.ts';

export function rangeContract({ subject, registry, freshPrefix }: Suite): void {
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
    await registry().txn({ compare: [], success: [{ op: 'delete', key }] });
    const revision = await putAll(registry(), { [key]: '2' });
    expect((await registry().range({ key })).kvs).toMatchObject([
      { createRevision: revision, modRevision: revision },
    ]);
  });

  it('reads [key, end) in the byte order of the keys, and nothing beside it', async () => {
    const prefix = freshPrefix();
    const names = ['10.5.1.0-24', '10.5.10.0-24', '10.5.1.0-24&fc00::-64', 'z', '\u{ffff}', '\u{1f600}', 'ä'];
    await putAll(registry(), Object.fromEntries(names.map((name) => [prefix + name, name])));
    await putAll(registry(), {
      [`${prefix.slice(0, -1)}-old/x`]: 'outside',
      [prefix.slice(0, -1)]: 'outside',
    });
    const { kvs } = await registry().range({ key: prefix, rangeEnd: prefixEnd(prefix) });
    const inByteOrder = [
      '10.5.1.0-24',
      '10.5.1.0-24&fc00::-64',
      '10.5.10.0-24',
      'z',
      'ä',
      '\u{ffff}',
      '\u{1f600}',
    ];
    expect(kvs.map(({ key }) => key)).toEqual(inByteOrder.map((name) => prefix + name));
    expect(kvs.map(({ value }) => value)).toEqual(inByteOrder);
  });

  it('cuts the answer at the limit and says so', async () => {
    const prefix = freshPrefix();
    await putAll(registry(), { [`${prefix}a`]: '1', [`${prefix}b`]: '2', [`${prefix}c`]: '3' });
    const rangeEnd = prefixEnd(prefix);
    const two = await registry().range({ key: prefix, rangeEnd, limit: 2 });
    expect([two.kvs.map(({ value }) => value), two.more]).toEqual([['1', '2'], true]);
    const three = await registry().range({ key: prefix, rangeEnd, limit: 3 });
    expect([three.kvs.length, three.more]).toEqual([3, false]);
    const all = await registry().range({ key: prefix, rangeEnd, limit: 0 });
    expect([all.kvs.length, all.more]).toEqual([3, false]);
  });

  it('pages through one revision while keys change', async () => {
    const prefix = freshPrefix();
    const revision = await putAll(registry(), {
      [`${prefix}a`]: '1',
      [`${prefix}b`]: '2',
      [`${prefix}c`]: '3',
    });
    await putAll(registry(), { [`${prefix}aa`]: 'new', [`${prefix}c`]: 'changed' });
    await registry().txn({ compare: [], success: [{ op: 'delete', key: `${prefix}b` }] });
    const rangeEnd = prefixEnd(prefix);
    const first = await registry().range({ key: prefix, rangeEnd, limit: 1, revision });
    const rest = await registry().range({ key: `${prefix}a\0`, rangeEnd, limit: 5, revision });
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
    expect((await registry().range({ key })).kvs).toMatchObject([{ value: '3' }]);
  });

  it('refuses a revision that is still to come', async () => {
    const { header } = await registry().txn({ compare: [], success: [put(`${freshPrefix()}a`, '1')] });
    const error = await rejectionOf(registry().range({ key: 'a', revision: header.revision + 1_000 }));
    expect(error.kind).toBe('PROTOCOL');
  });
}
