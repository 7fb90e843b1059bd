import { beforeEach, describe, expect, it } from 'vitest';
import { VirtualClock } from '../../sim/clock.ts';
import { SimEtcd } from '../../sim/etcd.ts';
import { prefix } from '../../sim/leases.ts';
import { LensRegistry } from '../../sim/lens-registry.ts';
import { listRange, type RangeResponse, type Registry } from '../../src/subnet/registry/registry.ts';

const signal = new AbortController().signal;

let etcd: SimEtcd;
let registry: LensRegistry;

beforeEach(() => {
  etcd = new SimEtcd({ clock: new VirtualClock() });
  registry = new LensRegistry(etcd.member('etcd-0'));
});

const keyOf = (index: number) => `${prefix}${String(index).padStart(6, '0')}`;

function fill(count: number): void {
  for (let index = 0; index < count; index++) etcd.put(keyOf(index), 'v');
}

describe('listRange', () => {
  it.each([
    [0, 1],
    [5_000, 1],
    [5_001, 2],
    [12_000, 3],
  ])('gives %i keys in %i calls, in order', async (count, calls) => {
    fill(count);
    etcd.put('/net/subnets0', 'behind the prefix');
    const { kvs, header } = await listRange(registry, prefix, signal);
    expect(header.revision).toBe(etcd.revision);
    expect(kvs.map(({ key }) => key)).toEqual(Array.from({ length: count }, (_, index) => keyOf(index)));
    expect(etcd.calls.range).toBe(calls);
  });

  it('is of one revision, whatever is written between the pages', async () => {
    fill(6_000);
    const { revision } = etcd;
    registry.onRange = ({ revision: at }) => {
      if (at !== undefined) etcd.delete(`${prefix}005999`, `${prefix}000001`);
    };
    const { kvs, header } = await listRange(registry, prefix, signal);
    expect(kvs).toHaveLength(6_000);
    expect(header.revision).toBe(revision);
  });

  it.each([1, 9])(
    'starts over, up to twice, when its revision is compacted between pages: %i times',
    async (times) => {
      fill(5_001);
      let compactions = 0;
      registry.onRange = ({ revision }) => {
        if (revision === undefined || compactions++ === times) return;
        etcd.put(`${prefix}zz`, 'v');
        etcd.compact();
      };
      const list = listRange(registry, prefix, signal);
      if (times === 1) expect((await list).kvs).toHaveLength(5_002);
      else await expect(list).rejects.toMatchObject({ kind: 'COMPACTED' });
      expect(etcd.calls.range).toBe(times === 1 ? 4 : 6);
    },
  );

  it('rejects when a later page fails: half a list is no list', async () => {
    fill(5_001);
    registry.onRange = ({ revision }) => {
      if (revision !== undefined) etcd.stop('etcd-0');
    };
    await expect(listRange(registry, prefix, signal)).rejects.toMatchObject({ kind: 'UNAVAILABLE' });
  });

  it('rejects when the server announces more keys but sends none', async () => {
    fill(5_001);
    const range: Registry['range'] = async (request): Promise<RangeResponse> => {
      const response = await etcd.member('etcd-0').range(request);
      return request.revision === undefined ? response : { ...response, kvs: [], more: true };
    };
    const lying: Registry = Object.assign(new LensRegistry(etcd.member('etcd-0')), { range });
    await expect(listRange(lying, prefix, signal)).rejects.toMatchObject({ kind: 'PROTOCOL' });
  });

  it('rejects with the reason of its signal', async () => {
    const stop = new AbortController();
    const list = listRange(registry, prefix, stop.signal);
    stop.abort(new Error('stopped'));
    await expect(list).rejects.toThrow('stopped');
  });
});
