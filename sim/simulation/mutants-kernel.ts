import type { ChangeResult, Kernel, KernelEvent, RouteChange } from '../../src/kernel/kernel.ts';
import { altered } from '../altered.ts';
import { routeProtocol, type SimHost } from '../host.ts';
import { broken, type Mutant } from './mutant.ts';
import { selfOf } from './oracle.ts';

/** What `subscribe` of a kernel becomes whose events are as `change` makes them; undefined: lost. */
function hearing(
  inner: Kernel,
  change: (event: KernelEvent) => KernelEvent | undefined,
): Kernel['subscribe'] {
  const all = (events: readonly KernelEvent[]) => events.flatMap((event) => change(event) ?? []);
  return async () => {
    const events = await inner.subscribe();
    return altered(events, {
      next: async (signal) => all(await events.next(signal)),
      drain: async (signal) => all(await events.drain(signal)),
    });
  };
}

/** Events of which those that `isLost` says do not arrive. */
function withoutEvents(isLost: (event: KernelEvent) => boolean): Mutant {
  return broken('kernel', (inner) => ({
    subscribe: hearing(inner, (event) => (isLost(event) ? undefined : event)),
  }));
}

/** Removals of our routes, of this destination or of all. */
function removals({ kernel }: SimHost, family: 4 | 6, dst?: string): readonly RouteChange[] {
  return kernel.routes(family).flatMap((route): RouteChange[] => {
    const { gateway, linkIndex, metric, protocol } = route;
    const isOurs = protocol === routeProtocol && route.dst === (dst ?? route.dst);
    if (!isOurs || gateway === undefined || linkIndex === undefined) return [];
    return [{ op: 'remove', route: { family, dst: route.dst, metric, protocol, gateway, linkIndex } }];
  });
}

/** Removals as `remove` makes them; all else is done as ever, before. */
function removing(inner: Kernel, remove: (change: RouteChange) => ChangeResult): Kernel['apply'] {
  return async (changes, signal) => {
    const others = changes.filter(({ op }) => op !== 'remove');
    const results = [...(await inner.apply(others, signal))];
    return changes.map((change) =>
      change.op === 'remove' ? remove(change) : (results.shift() ?? { outcome: 'unknown' }),
    );
  };
}

/** What may be broken between the daemon and the kernel. */
export const kernelMutants: Readonly<Record<string, Mutant>> = {
  'a replacement is a removal and an addition': broken('kernel', (inner, host) => ({
    apply: async (changes, signal) => {
      const first = changes
        .filter(({ op }) => op === 'replace' || op === 'prepend')
        .flatMap(({ route: { family, dst } }) => removals(host, family, dst));
      if (first.length > 0) await inner.apply(first, signal);
      return await inner.apply(changes, signal);
    },
  })),
  'nothing is ever removed': broken('kernel', (inner) => ({
    apply: removing(inner, () => ({ outcome: 'done' })),
  })),
  'a removal names the destination alone': broken('kernel', (inner, { kernel }) => ({
    apply: removing(inner, ({ route: { family, dst } }) => {
      const errno = kernel.remove(family, { dst }, inner);
      return errno === undefined ? { outcome: 'done' } : { outcome: 'failed', errno };
    }),
  })),
  'a route of the kernel counts as any other': broken('kernel', (inner) => {
    const disguised = <T extends { readonly protocol: number }>(route: T): T => {
      return route.protocol === 2 ? { ...route, protocol: 4 } : route;
    };
    // Nor that the address is this host's: each alone keeps its network from being taken.
    const isBridge = (address: string) => address.startsWith('172.20.');
    return {
      subscribe: hearing(inner, (event) => {
        if (event.type === 'address-added' && isBridge(event.address.address)) return undefined;
        return event.type === 'route-added' ? { ...event, route: disguised(event.route) } : event;
      }),
      routes: async (...call) => (await inner.routes(...call)).map(disguised),
      addresses: async (...call) => {
        return (await inner.addresses(...call)).filter(({ address }) => !isBridge(address));
      },
    };
  }),
  'lost events are not noticed': withoutEvents(({ type }) => type === 'overflow'),
  'links and addresses are not heard of': withoutEvents(({ type }) => /^(?:link|address)/.test(type)),
  'removed routes are not heard of': withoutEvents(({ type }) => type === 'route-removed'),
  'dumps are cut short': broken('kernel', (inner) => ({
    routes: async (...call) => {
      const routes = await inner.routes(...call);
      return routes.slice(0, Math.ceil(routes.length / 2));
    },
  })),
  'all routes are sent again at every look': broken('kernel', (inner, host) => ({
    routes: async (family, signal) => {
      const routes = await inner.routes(family, signal);
      const again = removals(host, family).map((change) => ({ ...change, op: 'replace' as const }));
      if (again.length > 0) await inner.apply(again, signal);
      return routes;
    },
  })),
  'the own subnet is routed, too': broken('kernel', (inner, host) => ({
    apply: async (changes, signal) => {
      const own = selfOf(host, 4)?.subnet.text;
      const add = changes.find(({ op, route }) => op === 'add' && route.family === 4);
      const more = own && add ? [{ ...add, route: { ...add.route, dst: own } }] : [];
      await inner.apply(more, signal);
      return await inner.apply(changes, signal);
    },
  })),
  'the first look begins with an empty table': broken('kernel', (inner, host) => ({
    subscribe: async () => {
      await inner.apply(removals(host, 4));
      return await inner.subscribe();
    },
  })),
  'routes go when the daemon ends': broken('kernel', (inner, host) => ({
    close: () => {
      for (const { dst, protocol, family } of [...host.kernel.routes(4), ...host.kernel.routes(6)]) {
        if (protocol === routeProtocol) host.kernel.remove(family, { dst, protocol }, inner);
      }
      inner.close();
    },
  })),
};
