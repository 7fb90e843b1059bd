import { beforeEach, describe, expect, it } from 'vitest';
import { VirtualClock } from '../../sim/clock.ts';
import { SimEtcd } from '../../sim/etcd.ts';
import { prefix } from '../../sim/leases.ts';
import { LensRegistry } from '../../sim/lens-registry.ts';
import {
  listRange,
  type RangeResponse,
  type Registry,
  RegistryError,
} from '../../src/subnet/registry/registry.ts';

const signal = new AbortController().signal;

let etcd: SimEtcd;
let registry: LensRegistry;

beforeEach(() => {
  etcd = new SimEtcd({ clock: new VirtualClock() });
  registry = new LensRegistry(etcd.member('etcd-0'));
});

function fill(count: number): void {
  for (let index = 0; index < count; index++) etcd.put(`${prefix}${String(index).padStart(6, '0')}`, 'v');
}

describe('listRange', () => {
  it('gives an empty list with its revision when there is nothing', async () => {
    expect(await listRange(registry, prefix, signal)).toMatchObject({ kvs: [], header: { revision: 1 } });
  });

  it.each([
    [1, 1],
    [20_000, 1],
    [20_001, 2],
    [45_000, 3],
  ])('gives %i keys in %i calls, in order', async (count, calls) => {
    fill(count);
    etcd.put('/net/subnets0', 'behind the prefix');
    const { kvs } = await listRange(registry, prefix, signal);
    expect(kvs).toHaveLength(count);
    expect(new Set(kvs.map(({ key }) => key)).size).toBe(count);
    expect(kvs.at(-1)?.key).toBe(`${prefix}${String(count - 1).padStart(6, '0')}`);
    expect(etcd.calls.range).toBe(calls);
  });

  it('is of one revision, whatever is written between the pages', async () => {
    fill(25_000);
    const { revision } = etcd;
    registry.onRange = ({ revision: at }) => {
      if (at !== undefined) etcd.delete(`${prefix}024999`, `${prefix}000001`);
    };
    const { kvs, header } = await listRange(registry, prefix, signal);
    expect(kvs).toHaveLength(25_000);
    expect(header.revision).toBe(revision);
  });

  it('starts over when its revision is compacted between two pages', async () => {
    fill(20_001);
    let compactions = 0;
    registry.onRange = ({ revision }) => {
      if (revision === undefined || compactions === 1) return;
      compactions++;
      etcd.put(`${prefix}zz`, 'v');
      etcd.compact();
    };
    const { kvs } = await listRange(registry, prefix, signal);
    expect(kvs).toHaveLength(20_002);
    expect(etcd.calls.range).toBe(4);
  });

  it('rejects, rather than asking for ever, when that happens again and again', async () => {
    fill(20_001);
    registry.onRange = ({ revision }) => {
      if (revision === undefined) return;
      etcd.put(`${prefix}zz`, 'v');
      etcd.compact();
    };
    await expect(listRange(registry, prefix, signal)).rejects.toMatchObject({ kind: 'COMPACTED' });
    expect(etcd.calls.range).toBe(6);
  });

  it('rejects when a later page fails: half a list is no list', async () => {
    fill(20_001);
    registry.onRange = ({ revision }) => {
      if (revision !== undefined) etcd.stop('etcd-0');
    };
    await expect(listRange(registry, prefix, signal)).rejects.toMatchObject({ kind: 'UNAVAILABLE' });
  });

  it('rejects when the server announces more keys but sends none', async () => {
    fill(20_001);
    const range: Registry['range'] = async (request): Promise<RangeResponse> => {
      const response = await etcd.member('etcd-0').range(request);
      return request.revision === undefined ? response : { ...response, kvs: [], more: true };
    };
    const lying: Registry = Object.assign(new LensRegistry(etcd.member('etcd-0')), { range });
    const error: unknown = await listRange(lying, prefix, signal).catch((reason: unknown) => reason);
    expect(error).toBeInstanceOf(RegistryError);
    expect(error).toMatchObject({ kind: 'PROTOCOL' });
  });

  it('rejects with the reason of its signal', async () => {
    const stop = new AbortController();
    const list = listRange(registry, prefix, stop.signal);
    stop.abort(new Error('stopped'));
    await expect(list).rejects.toThrow('stopped');
  });
});
