import { expect, it } from 'vitest';
import { type Compare, prefixEnd, type Registry } from '../../src/subnet/registry/registry.ts';
import { put, putAll, rejectionOf, type Suite } from './registry-suite.ts';

const operators = ['=', '!=', '<', '>'] as const;

function expected(op: (typeof operators)[number], order: number): boolean {
  return { '=': order === 0, '!=': order !== 0, '<': order < 0, '>': order > 0 }[op];
}

/** Nobody holds 172.20.9.0/24, with or without a v6 half. */
function guard(prefix: string): Compare {
  const [key, rangeEnd] = [`${prefix}172.20.9.0-24`, `${prefix}172.20.9.0-25`];
  return { key, rangeEnd, target: 'create', op: '=', value: 0 };
}

async function succeeds(registry: Registry, ...compare: readonly Compare[]): Promise<boolean> {
  return (await registry.txn({ compare, success: [] })).succeeded;
}

export function txnContract(suite: Suite): void {
  const { registry, freshPrefix, write, read } = suite;
  compareContract(suite);
  allocationGuardContract(suite);

  it('writes, reads and deletes in order, at one revision', async () => {
    const prefix = freshPrefix();
    const [a, b] = [`${prefix}a`, `${prefix}b`];
    const before = await putAll(registry(), { [a]: 'old', [b]: 'old' });
    const all = { op: 'range', key: prefix, rangeEnd: prefixEnd(prefix) } as const;
    const response = await registry().txn({
      compare: [],
      success: [all, put(a, 'new'), { op: 'range', key: a }, { op: 'delete', key: b }, all],
      failure: [{ op: 'delete', key: a }],
    });
    expect(response.succeeded).toBe(true);
    expect(response.header.revision).toBe(before + 1);
    const found = response.ranges.map((range) => range.map(({ key, value }) => `${key}=${value}`));
    expect(found).toEqual([[`${a}=old`, `${b}=old`], [`${a}=new`], [`${a}=new`]]);
    expect(response.ranges[1]).toMatchObject([{ createRevision: before - 1, modRevision: before + 1 }]);
  });

  it('reads what was put at a revision or later, its own writes with it', async () => {
    const prefix = freshPrefix();
    const before = await putAll(registry(), { [`${prefix}a`]: 'old', [`${prefix}b`]: 'old' });
    const range = { op: 'range', key: prefix, rangeEnd: prefixEnd(prefix) } as const;
    const keysSince = async (minModRevision: number) => {
      const success = [put(`${prefix}c`, 'new'), { ...range, minModRevision }];
      return (await registry().txn({ compare: [], success })).ranges[0]?.map(({ key }) => key);
    };
    expect(await keysSince(before + 1)).toEqual([`${prefix}c`]);
    expect(await keysSince(before)).toEqual([`${prefix}b`, `${prefix}c`]);
  });

  it('takes the failure branch when one compare fails, or does nothing', async () => {
    const key = `${freshPrefix()}a`;
    await putAll(registry(), { [key]: 'old' });
    const compare: Compare[] = [
      { key, target: 'version', op: '=', value: 1 },
      { key, target: 'create', op: '=', value: 0 },
    ];
    const success = [put(key, 'new')];
    const failed = await registry().txn({ compare, success, failure: [{ op: 'range', key }] });
    expect(failed).toMatchObject({ succeeded: false, ranges: [[{ key, value: 'old' }]] });
    const nothing = await registry().txn({ compare, success });
    expect(nothing).toMatchObject({ succeeded: false, ranges: [] });
    expect(await read(key)).toMatchObject([{ value: 'old' }]);
  });

  it('moves the revision only when something changes', async () => {
    const prefix = freshPrefix();
    const revision = await putAll(registry(), { [`${prefix}a`]: '1' });
    const nothing = { op: 'delete', key: `${prefix}absent` } as const;
    expect(await write(nothing, { op: 'range', key: `${prefix}a` })).toBe(revision);
    // The same value again is a change: it has a revision and an event.
    expect(await write(put(`${prefix}a`, '1'))).toBe(revision + 1);
  });

  it('refuses two writes of one key, changing nothing', async () => {
    const key = `${freshPrefix()}a`;
    for (const second of [put(key, '2'), { op: 'delete', key } as const]) {
      const error = await rejectionOf(write(put(key, '1'), second));
      expect(error).toMatchObject({ kind: 'PROTOCOL', outcomeUnknown: false });
    }
    expect(await read(key)).toEqual([]);
  });

  it('refuses a put with a lease that does not exist, changing nothing', async () => {
    const prefix = freshPrefix();
    const { id } = await registry().leaseGrant(60);
    await registry().leaseRevoke(id);
    const success = [put(`${prefix}a`, '1'), put(`${prefix}b`, '1', id)];
    const error = await rejectionOf(write(...success));
    expect(error).toMatchObject({ kind: 'LEASE_NOT_FOUND', outcomeUnknown: false });
    expect(await read(prefix)).toEqual([]);
    // Only the branch taken counts.
    const compare: Compare[] = [{ key: `${prefix}a`, target: 'create', op: '!=', value: 0 }];
    expect((await registry().txn({ compare, success, failure: [] })).succeeded).toBe(false);
  });
}

function compareContract({ registry, freshPrefix, write }: Suite): void {
  it.each(operators)('compares with %s: create, mod, version, lease and value of a key', async (op) => {
    const key = `${freshPrefix()}a`;
    const { id } = await registry().leaseGrant(600);
    const create = await putAll(registry(), { [key]: 'a' });
    const mod = await write(put(key, 'b', id));
    const numbers = { create, mod, version: 2 } as const;
    for (const order of [-1, 0, 1]) {
      for (const [target, actual] of Object.entries(numbers) as ['create' | 'mod' | 'version', number][]) {
        const holds = await succeeds(registry(), { key, target, op, value: actual - order });
        expect([target, order, holds]).toEqual([target, order, expected(op, order)]);
      }
      const value = { '-1': 'ba', '0': 'b', '1': 'a' }[String(order)] ?? '';
      expect(await succeeds(registry(), { key, target: 'value', op, value })).toBe(expected(op, order));
      const lease = String(BigInt(id) - BigInt(order));
      expect(await succeeds(registry(), { key, target: 'lease', op, value: lease })).toBe(
        expected(op, order),
      );
    }
    await registry().leaseRevoke(id);
  });

  it.each(operators)(
    'compares an absent key with %s as one whose numbers are 0, and a value never',
    async (op) => {
      const key = `${freshPrefix()}absent`;
      for (const range of [{ key }, { key, rangeEnd: `${key}z` }]) {
        for (const target of ['create', 'mod', 'version'] as const) {
          expect(await succeeds(registry(), { ...range, target, op, value: 0 })).toBe(expected(op, 0));
          expect(await succeeds(registry(), { ...range, target, op, value: 5 })).toBe(expected(op, -5));
        }
        expect(await succeeds(registry(), { ...range, target: 'lease', op, value: '0' })).toBe(
          expected(op, 0),
        );
        expect(await succeeds(registry(), { ...range, target: 'value', op, value: '' })).toBe(false);
      }
    },
  );

  it('compares a range by every key in it', async () => {
    const prefix = freshPrefix();
    const first = await putAll(registry(), { [`${prefix}a`]: '1' });
    const second = await putAll(registry(), { [`${prefix}b`]: '1' });
    const range = { key: prefix, rangeEnd: prefixEnd(prefix) };
    expect(await succeeds(registry(), { ...range, target: 'mod', op: '<', value: second + 1 })).toBe(true);
    expect(await succeeds(registry(), { ...range, target: 'mod', op: '<', value: second })).toBe(false);
    expect(await succeeds(registry(), { ...range, target: 'create', op: '=', value: first })).toBe(false);
    expect(await succeeds(registry(), { ...range, target: 'value', op: '=', value: '1' })).toBe(true);
  });
}

function allocationGuardContract({ registry, freshPrefix, write, read }: Suite): void {
  it('guards a subnet, with and without a v6 half, by CREATE = 0 over a range', async () => {
    const prefix = freshPrefix();
    const others = ['172.20.9.0-2', '172.20.9.0-23', '172.20.9.0-25', '172.20.90.0-24'];
    await write(...others.map((name) => put(prefix + name, 'x')));
    expect(await succeeds(registry(), guard(prefix))).toBe(true);
    const dual = `${prefix}172.20.9.0-24&fc00:1::-64`;
    await write(put(dual, 'x'));
    expect(await succeeds(registry(), guard(prefix))).toBe(false);
    await write({ op: 'delete', key: dual });
    expect(await succeeds(registry(), guard(prefix))).toBe(true);
    await write(put(`${prefix}172.20.9.0-24`, 'x'));
    expect(await succeeds(registry(), guard(prefix))).toBe(false);
  });

  it('lets exactly one of many through', async () => {
    const prefix = freshPrefix();
    const results = await Promise.all(
      Array.from({ length: 20 }, (_, host) =>
        registry().txn({
          compare: [guard(prefix)],
          success: [put(`${prefix}172.20.9.0-24${host % 2 === 0 ? '' : `&fc00:${host}::-64`}`, String(host))],
        }),
      ),
    );
    expect(results.filter(({ succeeded }) => succeeded)).toHaveLength(1);
    expect(await read(prefix)).toHaveLength(1);
  });
}
