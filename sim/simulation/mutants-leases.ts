import type { Operation } from '../../src/subnet/registry/registry.ts';
import { broken, type Mutant } from './mutant.ts';

/** What may be broken in how a lease is got and kept. */
export const leaseMutants: Readonly<Record<string, Mutant>> = {
  'a subnet is taken without a condition': broken('registry', (inner) => ({
    txn: (request, signal) => {
      const takes = request.compare.some(({ target }) => target === 'create');
      return inner.txn({ ...request, compare: takes ? [] : request.compare }, signal);
    },
  })),
  'a renewal puts the key without a condition': broken('registry', (inner) => {
    let own: Operation | undefined;
    return {
      txn: async (request, signal) => {
        const answer = await inner.txn(request, signal);
        if (answer.succeeded) own = request.success.find(({ op }) => op === 'put') ?? own;
        return answer;
      },
      leaseKeepAlive: async (id, signal) => {
        const answer = await inner.leaseKeepAlive(id, signal);
        if (own?.op !== 'put' || answer.ttlSeconds === 0) return answer;
        // A put of the value that is there would wake every watcher, and so go on without end.
        const { kvs } = await inner.range({ key: own.key }, signal);
        if (kvs[0]?.value !== own.value) await inner.txn({ compare: [], success: [own] }, signal);
        return answer;
      },
    };
  }),
  'a renewal is not sent': broken('registry', () => ({ leaseKeepAlive: async () => ({ ttlSeconds: 300 }) })),
  'a renewal grants another lease': broken('registry', (inner) => ({
    leaseKeepAlive: async (id, signal) => {
      await inner.leaseGrant(86_400, signal);
      return await inner.leaseKeepAlive(id, signal);
    },
  })),
  'a reservation gets a lease': broken('registry', (inner) => ({
    txn: async (request, signal) => {
      const isReservation = (one: Operation) => one.op === 'put' && one.lease === '0';
      if (!request.success.some(isReservation)) return await inner.txn(request, signal);
      const { id: lease } = await inner.leaseGrant(300, signal);
      const success = request.success.map((one) => (isReservation(one) ? { ...one, lease } : one));
      return await inner.txn({ ...request, success }, signal);
    },
  })),
  'the link is not heard': broken('arp', (inner) => ({
    open: (...call) => {
      const socket = inner.open(...call);
      const next = async (signal: AbortSignal): Promise<never> => {
        for (;;) await socket.next(signal);
      };
      return { send: (packet) => socket.send(packet), next, close: () => socket.close() };
    },
  })),
};
