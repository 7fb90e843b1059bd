import type {
  ChangeResult,
  Kernel,
  KernelEvent,
  Route,
  RouteChange,
  RouteSpec,
} from '../../src/kernel/kernel.ts';
import { altered } from '../altered.ts';
import { routeProtocol, type SimHost, type Wrappers } from '../host.ts';
import { selfOf } from './oracle.ts';

function withEvents(change: (event: KernelEvent) => KernelEvent | undefined): Wrappers {
  const all = (events: readonly KernelEvent[]) => events.flatMap((event) => change(event) ?? []);
  return {
    kernel: (inner) =>
      altered(inner, {
        subscribe: async () => {
          const events = await inner.subscribe();
          return altered(events, {
            next: async (signal) => all(await events.next(signal)),
            drain: async (signal) => all(await events.drain(signal)),
          });
        },
      }),
  };
}

function specOf({ family, dst, metric, protocol, gateway = '', linkIndex = 0 }: Route): RouteSpec {
  return { family, dst, metric, protocol, gateway, linkIndex };
}

/** Removals of the routes of this destination that we have. */
function removals({ kernel }: SimHost, { route: { dst, family } }: RouteChange): readonly RouteChange[] {
  return kernel.routes(family).flatMap((route) => {
    const { gateway, linkIndex, metric, protocol } = route;
    if (route.dst !== dst || protocol !== routeProtocol || gateway === undefined || linkIndex === undefined)
      return [];
    return [{ op: 'remove' as const, route: { family, dst, metric, protocol, gateway, linkIndex } }];
  });
}

/** A kernel whose routes go as `remove` has them go; the rest is done as ever, before. */
function removing(inner: Kernel, remove: (change: RouteChange) => ChangeResult): Kernel {
  return altered(inner, {
    apply: async (changes, signal) => {
      const results = await inner.apply(
        changes.filter(({ op }) => op !== 'remove'),
        signal,
      );
      let next = 0;
      return changes.map((change) =>
        change.op === 'remove' ? remove(change) : (results[next++] ?? { outcome: 'unknown' }),
      );
    },
  });
}

/** What may be broken between the daemon and the kernel. */
export const kernelMutants: Readonly<Record<string, () => Wrappers>> = {
  'a replacement is a removal and an addition': () => ({
    kernel: (inner, host) =>
      altered(inner, {
        apply: async (changes, signal) => {
          const first = changes
            .filter(({ op }) => op === 'replace' || op === 'prepend')
            .flatMap((change) => removals(host, change));
          if (first.length > 0) await inner.apply(first, signal);
          return await inner.apply(changes, signal);
        },
      }),
  }),
  'nothing is ever removed': () => ({
    kernel: (inner) => removing(inner, () => ({ outcome: 'done' })),
  }),
  'a removal names the destination alone': () => ({
    kernel: (inner, { kernel }) =>
      removing(inner, ({ route: { family, dst } }) => {
        const errno = kernel.remove(family, { dst }, inner);
        return errno === undefined ? { outcome: 'done' } : { outcome: 'failed', errno };
      }),
  }),
  'a route of the kernel counts as any other': () => {
    const disguised = <T extends { readonly protocol: number }>(route: T): T => {
      return route.protocol === 2 ? { ...route, protocol: 4 } : route;
    };
    // Nor that the address is this host's: each alone keeps its network from being taken.
    const isBridge = (address: string) => address.startsWith('172.20.');
    const { kernel } = withEvents((event) => {
      if (event.type === 'address-added' && isBridge(event.address.address)) return undefined;
      return event.type === 'route-added' ? { ...event, route: disguised(event.route) } : event;
    });
    return {
      kernel: (inner, host) => {
        const heard = kernel?.(inner, host) ?? inner;
        return altered(heard, {
          routes: async (...call) => (await heard.routes(...call)).map(disguised),
          addresses: async (...call) => {
            return (await heard.addresses(...call)).filter(({ address }) => !isBridge(address));
          },
        });
      },
    };
  },
  'lost events are not noticed': () => withEvents((event) => (event.type === 'overflow' ? undefined : event)),
  'links and addresses are not heard of': () =>
    withEvents((event) => (/^(?:link|address)/.test(event.type) ? undefined : event)),
  'removed routes are not heard of': () =>
    withEvents((event) => (event.type === 'route-removed' ? undefined : event)),
  'dumps are cut short': () => ({
    kernel: (inner) =>
      altered(inner, {
        routes: async (...call) => {
          const routes = await inner.routes(...call);
          return routes.slice(0, Math.ceil(routes.length / 2));
        },
      }),
  }),
  'all routes are sent again at every look': () => ({
    kernel: (inner, host) =>
      altered(inner, {
        routes: async (family, signal) => {
          const routes = await inner.routes(family, signal);
          const again = routes.flatMap((route) => removals(host, { op: 'remove', route: specOf(route) }));
          if (again.length > 0) {
            await inner.apply(
              again.map((change) => ({ ...change, op: 'replace' as const })),
              signal,
            );
          }
          return routes;
        },
      }),
  }),
  'the own subnet is routed, too': () => ({
    kernel: (inner, host) =>
      altered(inner, {
        apply: async (changes, signal) => {
          const own = selfOf(host, 4)?.subnet.text;
          const [add] = changes.filter(({ op, route }) => op === 'add' && route.family === 4);
          const more =
            own === undefined || add === undefined ? [] : [{ ...add, route: { ...add.route, dst: own } }];
          await inner.apply(more, signal);
          return await inner.apply(changes, signal);
        },
      }),
  }),
  'the first look begins with an empty table': () => ({
    kernel: (inner, host) =>
      altered(inner, {
        subscribe: async () => {
          const routes = host.kernel
            .routes(4)
            .map((route) => ({ op: 'remove' as const, route: specOf(route) }));
          await inner.apply(routes.flatMap((change) => removals(host, change)));
          return await inner.subscribe();
        },
      }),
  }),
  'routes go when the daemon ends': () => ({
    kernel: (inner, host) =>
      altered(inner, {
        close: () => {
          for (const { dst, protocol, family } of [...host.kernel.routes(4), ...host.kernel.routes(6)]) {
            if (protocol === routeProtocol) host.kernel.remove(family, { dst, protocol }, inner);
          }
          inner.close();
        },
      }),
  }),
};
