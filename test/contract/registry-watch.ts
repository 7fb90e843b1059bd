import { expect, it } from 'vitest';
import { prefixEnd, type WatchEvent } from '../../src/subnet/registry/registry.ts';
import { collect, put, putAll, rejectionOf, type Suite } from './registry-suite.ts';

/** An event in short: `a=1@7` or `-a@8`. */
const short = (prefix: string) => (event: WatchEvent) =>
  event.type === 'put'
    ? `${event.kv.key.slice(prefix.length)}=${event.kv.value}@${event.kv.modRevision}`
    : `-${event.key.slice(prefix.length)}@${event.modRevision}`;

export function watchContract({ subject, registry, freshPrefix, write, read }: Suite): void {
  /** Has `change` called once the watch is confirmed; resolves to its messages up to so many events. */
  const follow = async (
    prefix: string,
    start: number | undefined,
    count: number,
    change = async () => {},
  ) => {
    let changed: Promise<unknown> | undefined;
    const batches = await collect(registry(), prefix, start, (seen) => {
      changed ??= change();
      return seen.flatMap(({ events }) => events).length >= count;
    });
    await changed;
    return batches;
  };
  /** Their events in short. */
  const told = async (prefix: string, start: number | undefined, count: number, change = async () => {}) => {
    const batches = await follow(prefix, start, count, change);
    return batches.flatMap(({ events }) => events).map(short(prefix));
  };

  it('confirms first, then delivers what was there and what comes, in order', async () => {
    const prefix = freshPrefix();
    const first = await putAll(registry(), { [`${prefix}a`]: '1' });
    await write(put(`${prefix}a`, '2'));
    const batches = await follow(prefix, first, 3, async () => void (await write(put(`${prefix}b`, '3'))));
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
    await write({ op: 'delete', key: `${prefix}a` });
    expect(await told(prefix, first + 2, 2)).toEqual([`b=3@${first + 2}`, `-a@${first + 3}`]);
  });

  it('delivers the changes of one transaction together, in their order', async () => {
    const prefix = freshPrefix();
    const revision = (await putAll(registry(), { [`${prefix}gone`]: '1' })) + 1;
    const gone = { op: 'delete', key: `${prefix}gone` } as const;
    const batches = await follow(prefix, revision, 1, async () => {
      await write(put(`${prefix}z`, '1'), gone, put(`${prefix}a`, '2'));
    });
    expect(batches.at(-1)?.fragment).toBe(false);
    const events = [`z=1@${revision}`, `-gone@${revision}`, `a=2@${revision}`];
    expect(batches.at(-1)?.events.map(short(prefix))).toEqual(events);
  });

  it('sees nothing beside its range', async () => {
    const prefix = freshPrefix();
    const [beside, before] = [`${prefix.slice(0, -1)}-old/a`, prefix.slice(0, -1)];
    const first = await putAll(registry(), { [beside]: '1', [before]: '1', [`${prefix}a`]: '1' });
    const events = await told(prefix, first - 2, 2, async () => {
      await putAll(registry(), { [beside]: '2', [`${prefix}a`]: '2' });
    });
    expect(events).toEqual([`a=1@${first}`, `a=2@${first + 2}`]);
  });

  it('tells a put from a put with a lease, and carries the revisions of the key', async () => {
    const key = `${freshPrefix()}a`;
    const { id } = await registry().leaseGrant(60);
    const created = await putAll(registry(), { [key]: '1' });
    await write(put(key, '2', id));
    const batches = await follow(key, created + 1, 1);
    expect(batches.flatMap(({ events }) => events)).toEqual([
      { type: 'put', kv: { key, value: '2', createRevision: created, modRevision: created + 1, lease: id } },
    ]);
    await registry().leaseRevoke(id);
  });

  it('accepts a start in the future in silence, and confirms with the revision that is', async () => {
    const prefix = freshPrefix();
    const first = await putAll(registry(), { [`${prefix}a`]: '1' });
    const batches = await follow(prefix, first + 3, 1, async () => {
      await putAll(registry(), { [`${prefix}a`]: '2', [`${prefix}b`]: '3', [`${prefix}c`]: '4' });
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
    expect(await rejectionOf(watch)).toMatchObject({ kind: 'COMPACTED', compactRevision: compacted });
    expect(kinds).toEqual(['created']);
    expect(await told(prefix, compacted, 1)).toEqual([`b=3@${compacted}`]);
  });

  it('is not disturbed by a compaction once it has caught up', async () => {
    const prefix = freshPrefix();
    const first = await putAll(registry(), { [`${prefix}a`]: '1' });
    const events = await told(prefix, first + 1, 3, async () => {
      await subject().compact(await putAll(registry(), { [`${prefix}a`]: '2', [`${prefix}a2`]: '3' }));
      await write({ op: 'delete', key: `${prefix}a` });
    });
    expect(events).toEqual([`a=2@${first + 1}`, `a2=3@${first + 2}`, `-a@${first + 3}`]);
  });

  it('without a revision tells what happens from now on', async () => {
    const prefix = freshPrefix();
    await write(put(`${prefix}before`, '1'));
    const events = await told(
      prefix,
      undefined,
      1,
      async () => void (await write(put(`${prefix}after`, '2'))),
    );
    const [after] = await read(`${prefix}after`);
    expect(events).toEqual([`after=2@${after?.modRevision}`]);
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
    for (const ending of ['abort', 'break', 'throw']) {
      const controller = new AbortController();
      const end = () => {
        if (ending === 'throw') throw new Error('stopped');
        if (ending === 'abort') controller.abort(new Error('stopped'));
        return ending === 'break';
      };
      const watch = collect(registry(), prefix, 1_000_000, end, controller.signal);
      if (ending === 'break') await watch;
      else await expect(watch).rejects.toThrow('stopped');
    }
    await subject().until('the server has no watch left', async () => (await subject().watchers()) === 0);
  });
}
