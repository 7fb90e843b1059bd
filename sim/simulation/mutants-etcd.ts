import { untilAborted } from '../../src/runtime/wake.ts';
import { parseSubnetKey } from '../../src/subnet/keys.ts';
import {
  type RangeResponse,
  type Registry,
  RegistryError,
  type WatchBatch,
  type WatchEvent,
  type WatchRequest,
} from '../../src/subnet/registry/registry.ts';
import { altered } from '../altered.ts';
import type { Wrappers } from '../host.ts';
import { subnetsPrefix } from './oracle.ts';

type Range = (request: Parameters<Registry['range']>[0], answer: RangeResponse) => RangeResponse;

function withLists(change: Range): Wrappers {
  return {
    registry: (inner) =>
      altered(inner, {
        range: async (request, signal) => {
          const answer = await inner.range(request, signal);
          return request.rangeEnd === undefined ? answer : change(request, answer);
        },
      }),
  };
}

/** Every batch as `change` makes it; undefined: it is lost. */
function withBatches(change: (batch: WatchBatch) => WatchBatch | undefined): Wrappers {
  return {
    registry: (inner) =>
      altered(inner, {
        watch: async function* (request, signal) {
          for await (const batch of inner.watch(request, signal)) {
            const changed = change(batch);
            if (changed) yield changed;
          }
        },
      }),
  };
}

/** Watches that begin at `start` of what was asked for and the newest revision that any header told. */
function withStart(start: (asked: number, header: number) => number): Wrappers {
  return {
    registry: (inner) => {
      let header = 0;
      return altered(inner, {
        watch: async function* (request, signal) {
          const { startRevision } = request;
          const asked: WatchRequest =
            startRevision === undefined
              ? request
              : { ...request, startRevision: start(startRevision, header) };
          for await (const batch of inner.watch(asked, signal)) {
            header = Math.max(header, batch.header.revision);
            yield batch;
          }
        },
      });
    },
  };
}

function withEvents(change: (event: WatchEvent) => WatchEvent | undefined): Wrappers {
  return withBatches((batch) => ({ ...batch, events: batch.events.flatMap((event) => change(event) ?? []) }));
}

const asHostGw = (value: string): string => value.replace('"vxlan"', '"host-gw"');

/** What may be broken between the daemon and etcd. */
export const etcdMutants: Readonly<Record<string, () => Wrappers>> = {
  'the watch loses an event': () => {
    let count = 0;
    return withEvents((event) => (++count % 7 === 0 ? undefined : event));
  },
  'the watch does not tell of deletions': () =>
    withEvents((event) => (event.type === 'delete' ? undefined : event)),
  'a fragment is taken for the whole': () =>
    withBatches((batch) => (batch.events.length > 0 ? { ...batch, fragment: false } : batch)),
  'the watch goes on after the newest header': () =>
    withStart((asked, header) => Math.max(asked, header + 1)),
  'a stream that ended is not opened again': () => {
    const ended = new WeakSet<Registry>();
    return {
      registry: (inner) =>
        altered(inner, {
          watch: async function* (request, signal) {
            if (!ended.has(inner)) {
              try {
                yield* inner.watch(request, signal);
              } catch {
                ended.add(inner);
              }
            }
            await untilAborted(signal);
          },
        }),
    };
  },
  'a compaction is passed over': () => ({
    registry: (inner) =>
      altered(inner, {
        watch: async function* (request, signal) {
          try {
            yield* inner.watch(request, signal);
          } catch (error) {
            if (!(error instanceof RegistryError) || error.kind !== 'COMPACTED') throw error;
            const { startRevision: _, ...fromNow } = request;
            yield* inner.watch(fromNow, signal);
          }
        },
      }),
  }),
  'a restore is not noticed': () => {
    const same = <T extends { readonly header: WatchBatch['header'] }>(answer: T): T => {
      return { ...answer, header: { ...answer.header, clusterId: '1', revision: 1e9 } };
    };
    return {
      registry: (inner) =>
        altered(inner, {
          range: async (...call) => {
            const answer = await inner.range(...call);
            return { ...answer, header: { ...answer.header, clusterId: '1' } };
          },
          watch: async function* (...call) {
            for await (const batch of inner.watch(...call)) {
              yield batch.kind === 'progress'
                ? { ...batch, header: { ...batch.header, clusterId: '1' } }
                : same(batch);
            }
          },
        }),
    };
  },
  'a list is cut short': () =>
    withLists((_, answer) => ({
      ...answer,
      kvs: answer.kvs.slice(0, Math.ceil(answer.kvs.length / 2)),
      more: false,
    })),
  'a junk key empties the list': () =>
    withLists((_, answer) => {
      return answer.kvs.every(({ key }) => parseSubnetKey(subnetsPrefix, key))
        ? answer
        : { ...answer, kvs: [] };
    }),
  'a stream that ends takes all leases with it': () => ({
    registry: (inner) => {
      const known = new Set<string>();
      return altered(inner, {
        watch: async function* (request, signal) {
          let header: WatchBatch['header'] | undefined;
          try {
            for await (const batch of inner.watch(request, signal)) {
              ({ header } = batch);
              for (const event of batch.events) if (event.type === 'put') known.add(event.kv.key);
              yield batch;
            }
          } catch (error) {
            const modRevision = (header?.revision ?? 0) + 1;
            const keys = [...known].filter((key) => key.startsWith(request.key));
            const events = keys.map((key) => ({ type: 'delete', key, modRevision }) as const);
            if (header) yield { header, events, fragment: false, kind: 'events' };
            throw error;
          }
        },
      });
    },
  }),
  'a watch is not let go of': () => ({
    registry: (inner) =>
      altered(inner, { watch: (request) => inner.watch(request, new AbortController().signal) }),
  }),
  // One read in six fails.
  'an error is an empty list': () => {
    let count = 0;
    return withLists((_, answer) => (++count % 6 === 0 ? { ...answer, kvs: [], more: false } : answer));
  },
  'another backend is routed to': () => ({
    registry: (inner) =>
      altered(inner, {
        range: async (...call) => {
          const answer = await inner.range(...call);
          return { ...answer, kvs: answer.kvs.map((kv) => ({ ...kv, value: asHostGw(kv.value) })) };
        },
        watch: async function* (...call) {
          for await (const batch of inner.watch(...call)) {
            const events = batch.events.map((event) => {
              return event.type === 'put'
                ? { ...event, kv: { ...event.kv, value: asHostGw(event.kv.value) } }
                : event;
            });
            yield { ...batch, events };
          }
        },
      }),
  }),
};
