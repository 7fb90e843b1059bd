import { untilAborted } from '../../src/runtime/wake.ts';
import { parseSubnetKey } from '../../src/subnet/keys.ts';
import {
  type RangeResponse,
  RegistryError,
  type WatchBatch,
  type WatchEvent,
} from '../../src/subnet/registry/registry.ts';
import { broken, type Mutant } from './mutant.ts';
import { subnetsPrefix } from './oracle.ts';

function withLists(change: (answer: RangeResponse) => RangeResponse): Mutant {
  return broken('registry', (inner) => ({
    range: async (request, signal) => {
      const answer = await inner.range(request, signal);
      return request.rangeEnd === undefined ? answer : change(answer);
    },
  }));
}

function withBatches(change: (batch: WatchBatch) => WatchBatch): Mutant {
  return broken('registry', (inner) => ({
    watch: async function* (...call) {
      for await (const batch of inner.watch(...call)) yield change(batch);
    },
  }));
}

function withEvents(change: (event: WatchEvent) => WatchEvent | undefined): Mutant {
  return withBatches((batch) => ({ ...batch, events: batch.events.flatMap((event) => change(event) ?? []) }));
}

const asHostGw = (value: string): string => value.replace('"vxlan"', '"host-gw"');

/** What may be broken between the daemon and etcd. */
export const etcdMutants: Readonly<Record<string, Mutant>> = {
  'the watch loses an event': () => {
    let count = 0;
    return withEvents((event) => (++count % 7 === 0 ? undefined : event))();
  },
  'the watch does not tell of deletions': withEvents((event) => {
    return event.type === 'delete' ? undefined : event;
  }),
  'a fragment is taken for the whole': withBatches((batch) => {
    return batch.events.length > 0 ? { ...batch, fragment: false } : batch;
  }),
  'the watch resumes after the newest header': broken('registry', (inner) => {
    let header = 0;
    return {
      watch: async function* (request, signal) {
        const { startRevision } = request;
        const from = startRevision && { startRevision: Math.max(startRevision, header + 1) };
        for await (const batch of inner.watch({ ...request, ...from }, signal)) {
          header = Math.max(header, batch.header.revision);
          yield batch;
        }
      },
    };
  }),
  'a stream that ended is not opened again': broken('registry', (inner) => {
    let ended = false;
    return {
      watch: async function* (request, signal) {
        try {
          if (!ended) yield* inner.watch(request, signal);
        } catch {
          ended = true;
        }
        await untilAborted(signal);
      },
    };
  }),
  'a compaction is passed over': broken('registry', (inner) => ({
    watch: async function* (request, signal) {
      try {
        yield* inner.watch(request, signal);
      } catch (error) {
        if (!(error instanceof RegistryError) || error.kind !== 'COMPACTED') throw error;
        const { startRevision: _, ...fromNow } = request;
        yield* inner.watch(fromNow, signal);
      }
    },
  })),
  'a restore is not noticed': broken('registry', (inner) => ({
    range: async (...call) => {
      const answer = await inner.range(...call);
      return { ...answer, header: { ...answer.header, clusterId: '1' } };
    },
    watch: async function* (...call) {
      for await (const batch of inner.watch(...call)) {
        const { revision } = batch.header;
        yield { ...batch, header: { clusterId: '1', revision: batch.kind === 'progress' ? revision : 1e9 } };
      }
    },
  })),
  'a list is cut short': withLists((answer) => {
    return { ...answer, kvs: answer.kvs.slice(0, Math.ceil(answer.kvs.length / 2)), more: false };
  }),
  'a junk key empties the list': withLists((answer) => {
    const isClean = answer.kvs.every(({ key }) => parseSubnetKey(subnetsPrefix, key));
    return isClean ? answer : { ...answer, kvs: [] };
  }),
  'a stream that ends takes all leases with it': broken('registry', (inner) => {
    const known = new Set<string>();
    return {
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
    };
  }),
  'a watch is never closed': broken('registry', (inner) => ({
    watch: (request) => inner.watch(request, new AbortController().signal),
  })),
  // One read in six fails.
  'an error is an empty list': () => {
    let count = 0;
    return withLists((answer) => (++count % 6 === 0 ? { ...answer, kvs: [], more: false } : answer))();
  },
  'another backend is routed to': broken('registry', (inner) => ({
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
  })),
};
