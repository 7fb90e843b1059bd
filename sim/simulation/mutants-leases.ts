import type { Operation } from '../../src/subnet/registry/registry.ts';
import { altered } from '../altered.ts';
import type { Wrappers } from '../host.ts';

/** What may be broken in how a lease is got and kept. */
export const leaseMutants: Readonly<Record<string, () => Wrappers>> = {
  'a subnet is taken without a condition': () => ({
    registry: (inner) =>
      altered(inner, {
        txn: (request, signal) => {
          const takes = request.compare.some(({ target }) => target === 'create');
          return inner.txn({ ...request, compare: takes ? [] : request.compare }, signal);
        },
      }),
  }),
  'a renewal puts the key without a condition': () => ({
    registry: (inner) => {
      let own: Operation | undefined;
      return altered(inner, {
        txn: async (request, signal) => {
          const answer = await inner.txn(request, signal);
          if (answer.succeeded) own = request.success.find(({ op }) => op === 'put') ?? own;
          return answer;
        },
        leaseKeepAlive: async (id, signal) => {
          const answer = await inner.leaseKeepAlive(id, signal);
          if (own?.op !== 'put' || answer.ttlSeconds === 0) return answer;
          // To put what is there already would wake everybody for ever.
          const { kvs } = await inner.range({ key: own.key }, signal);
          if (kvs[0]?.value !== own.value) await inner.txn({ compare: [], success: [own] }, signal);
          return answer;
        },
      });
    },
  }),
  'a renewal is not sent': () => ({
    registry: (inner) => altered(inner, { leaseKeepAlive: async () => ({ ttlSeconds: 300 }) }),
  }),
  'a renewal grants another lease': () => ({
    registry: (inner) =>
      altered(inner, {
        leaseKeepAlive: async (id, signal) => {
          await inner.leaseGrant(86_400, signal);
          return await inner.leaseKeepAlive(id, signal);
        },
      }),
  }),
  'a reservation gets a lease': () => ({
    registry: (inner) =>
      altered(inner, {
        txn: async (request, signal) => {
          const { id: lease } = request.success.some((one) => one.op === 'put' && one.lease === '0')
            ? await inner.leaseGrant(300, signal)
            : { id: '0' };
          const success = request.success.map((one) =>
            one.op === 'put' && one.lease === '0' ? { ...one, lease } : one,
          );
          return await inner.txn({ ...request, success }, signal);
        },
      }),
  }),
  'the link is not heard': () => ({
    arp: (inner) => ({
      open: (...call) => {
        const socket = inner.open(...call);
        const next = async (signal: AbortSignal): Promise<never> => {
          for (;;) await socket.next(signal);
        };
        return { send: (packet) => socket.send(packet), next, close: () => socket.close() };
      },
    }),
  }),
};
