import { expect, it } from 'vitest';
import { prefixEnd, type WatchBatch, type WatchEvent } from '../../src/subnet/registry/registry.ts';
import { collect, put, putAll, rejectionOf, type Suite } from './registry-suite.ts';

const eventCount = (count: number) => (batches: readonly WatchBatch[]) =>
  batches.flatMap((batch) => batch.events).length >= count;

/** An event in short: `a=1@7` or `-a@8`. */
const short = (prefix: string) => (event: WatchEvent) =>
  event.type === 'put'
    ? `${event.kv.key.slice(prefix.length)}=${event.kv.value}@${event.kv.modRevision}`
    : `-${event.key.slice(prefix.length)}@${event.modRevision}`;

export function watchContract({ subject, registry, freshPrefix }: Suite): void {
  it('confirms first, then delivers what was there and what comes, in order', async () => {
    const prefix = freshPrefix();
    const first = await putAll(registry(), { [`${prefix}a`]: '1' });
    await putAll(registry(), { [`${prefix}a`]: '2' });
    const batches = await collect(registry(), prefix, first, (seen) => {
      if (seen.length === 1) void putAll(registry(), { [`${prefix}b`]: '3' });
      return eventCount(3)(seen);
    });
    expect(batches[0]).toMatchObject({ kind: 'created', events: [], fragment: false });
    expect(batches.slice(1).every(({ kind }) => kind === 'events')).toBe(true);
    expect(batches.flatMap(({ events }) => events).map(short(prefix))).toEqual([
      `a=1@${first}`,
      `a=2@${first + 1}`,
      `b=3@${first + 2}`,
    ]);
    const { header } = await registry().range({ key: prefix });
    expect(new Set(batches.map((batch) => batch.header.clusterId))).toEqual(new Set([header.clusterId]));
    expect(batches.at(-1)?.header.revision).toBeGreaterThanOrEqual(first + 2);
  });

  it('resumes in the middle of history', async () => {
    const prefix = freshPrefix();
    const first = await putAll(registry(), { [`${prefix}a`]: '1' });
    await putAll(registry(), { [`${prefix}a`]: '2', [`${prefix}b`]: '3' });
    await registry().txn({ compare: [], success: [{ op: 'delete', key: `${prefix}a` }] });
    const batches = await collect(registry(), prefix, first + 2, eventCount(2));
    expect(batches.flatMap(({ events }) => events).map(short(prefix))).toEqual([
      `b=3@${first + 2}`,
      `-a@${first + 3}`,
    ]);
  });

  it('delivers the changes of one transaction together, in their order', async () => {
    const prefix = freshPrefix();
    const first = await putAll(registry(), { [`${prefix}gone`]: '1' });
    const success = [
      put(`${prefix}z`, '1'),
      { op: 'delete', key: `${prefix}gone` } as const,
      put(`${prefix}a`, '2'),
    ];
    const revision = first + 1;
    const batches = await collect(registry(), prefix, revision, (seen) => {
      if (seen.length === 1) void registry().txn({ compare: [], success });
      return eventCount(1)(seen);
    });
    expect(batches.at(-1)?.fragment).toBe(false);
    expect(batches.at(-1)?.events.map(short(prefix))).toEqual([
      `z=1@${revision}`,
      `-gone@${revision}`,
      `a=2@${revision}`,
    ]);
  });

  it('sees nothing beside its range', async () => {
    const prefix = freshPrefix();
    const beside = `${prefix.slice(0, -1)}-old/`;
    const first = await putAll(registry(), {
      [`${beside}a`]: '1',
      [prefix.slice(0, -1)]: '1',
      [`${prefix}a`]: '1',
    });
    const batches = await collect(registry(), prefix, first - 2, (seen) => {
      if (seen.length === 1) void putAll(registry(), { [`${beside}a`]: '2', [`${prefix}a`]: '2' });
      return eventCount(2)(seen);
    });
    expect(batches.flatMap(({ events }) => events).map(short(prefix))).toEqual([
      `a=1@${first}`,
      `a=2@${first + 2}`,
    ]);
  });

  it('tells a put from a put with a lease, and carries the revisions of the key', async () => {
    const key = `${freshPrefix()}a`;
    const { id } = await registry().leaseGrant(60);
    const created = await putAll(registry(), { [key]: '1' });
    await registry().txn({ compare: [], success: [put(key, '2', id)] });
    const batches = await collect(registry(), key, created + 1, eventCount(1));
    expect(batches.flatMap(({ events }) => events)).toEqual([
      { type: 'put', kv: { key, value: '2', createRevision: created, modRevision: created + 1, lease: id } },
    ]);
    await registry().leaseRevoke(id);
  });

  it('accepts a start in the future in silence, and confirms with the revision that is', async () => {
    const prefix = freshPrefix();
    const first = await putAll(registry(), { [`${prefix}a`]: '1' });
    const batches = await collect(registry(), prefix, first + 3, (seen) => {
      if (seen.length === 1)
        void putAll(registry(), { [`${prefix}a`]: '2', [`${prefix}b`]: '3', [`${prefix}c`]: '4' });
      return eventCount(1)(seen);
    });
    expect(batches[0]?.header.revision).toBe(first);
    expect(batches.flatMap(({ events }) => events).map(short(prefix))).toEqual([`c=4@${first + 3}`]);
  });

  it('is confirmed, then refused with the oldest revision left, when its start is compacted', async () => {
    const prefix = freshPrefix();
    const first = await putAll(registry(), { [`${prefix}a`]: '1' });
    const compacted = await putAll(registry(), { [`${prefix}a`]: '2', [`${prefix}b`]: '3' });
    await subject().compact(compacted);
    const kinds: string[] = [];
    const watch = collect(registry(), prefix, first, (seen) => {
      kinds.push(seen.at(-1)?.kind ?? '');
      return false;
    });
    const error = await rejectionOf(watch);
    expect(error).toMatchObject({ kind: 'COMPACTED', compactRevision: compacted });
    expect(kinds).toEqual(['created']);
    const batches = await collect(registry(), prefix, compacted, eventCount(1));
    expect(batches.flatMap(({ events }) => events).map(short(prefix))).toEqual([`b=3@${compacted}`]);
  });

  it('is not disturbed by a compaction once it has caught up', async () => {
    const prefix = freshPrefix();
    const first = await putAll(registry(), { [`${prefix}a`]: '1' });
    const change = async () => {
      const revision = await putAll(registry(), { [`${prefix}a`]: '2', [`${prefix}a2`]: '3' });
      await subject().compact(revision);
      await registry().txn({ compare: [], success: [{ op: 'delete', key: `${prefix}a` }] });
    };
    let changed: Promise<void> | undefined;
    const batches = await collect(registry(), prefix, first + 1, (seen) => {
      changed ??= change();
      return eventCount(3)(seen);
    });
    await changed;
    expect(batches.flatMap(({ events }) => events).map(short(prefix))).toEqual([
      `a=2@${first + 1}`,
      `a2=3@${first + 2}`,
      `-a@${first + 3}`,
    ]);
  });

  it('without a revision tells what happens from now on', async () => {
    const prefix = freshPrefix();
    await putAll(registry(), { [`${prefix}before`]: '1' });
    let written: Promise<number> | undefined;
    const batches = await collect(registry(), prefix, undefined, (seen) => {
      written ??= putAll(registry(), { [`${prefix}after`]: '2' });
      return seen.some(({ events }) => events.length > 0);
    });
    await written;
    const keys = batches.flatMap(({ events }) => events).map((event) => event.type === 'put' && event.kv.key);
    expect(keys).toEqual([`${prefix}after`]);
  });

  it('loses nothing when its reader is slow', async () => {
    const prefix = freshPrefix();
    const { header } = await registry().range({ key: prefix });
    const request = { key: prefix, rangeEnd: prefixEnd(prefix), startRevision: header.revision + 1 };
    const keys = Array.from({ length: 300 }, (_, index) => `${prefix}${String(index).padStart(4, '0')}`);
    const seen: string[] = [];
    for await (const { events } of registry().watch(request, AbortSignal.timeout(30_000))) {
      if (seen.length === 0 && events.length === 0)
        await putAll(registry(), Object.fromEntries(keys.map((key) => [key, 'x'])));
      seen.push(...events.map((event) => (event.type === 'put' ? event.kv.key : event.key)));
      if (seen.length >= keys.length) break;
    }
    expect(seen).toEqual(keys);
  });

  it('leaves nothing behind, however it ends', async () => {
    const prefix = freshPrefix();
    const endings = ['abort', 'break', 'throw'] as const;
    for (const ending of endings) {
      const controller = new AbortController();
      const watch = collect(
        registry(),
        prefix,
        1_000_000,
        () => {
          if (ending === 'throw') throw new Error('stopped');
          if (ending === 'abort') controller.abort(new Error('stopped'));
          return ending === 'break';
        },
        controller.signal,
      );
      if (ending === 'break') await watch;
      else await expect(watch).rejects.toThrow('stopped');
    }
    await subject().until('the server has no watch left', async () => (await subject().watchers()) === 0);
  });
}
