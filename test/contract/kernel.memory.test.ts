import { SimKernel } from '../../sim/kernel.ts';
import type { Kernel } from '../../src/kernel/kernel.ts';
import { kernelContract } from './kernel.ts';
import {
  type Connection,
  HOST4,
  HOST6,
  type KernelWorld,
  type Operator,
  type OperatorRoute,
  shared,
} from './kernel-world.ts';

kernelContract('in memory', async () => makeWorld((kernel) => kernel));
kernelContract('in memory, shared', async () => makeWorld(shared));

function makeWorld(wrap: (kernel: Connection) => Connection): KernelWorld {
  const sim = new SimKernel();
  const opened: Kernel[] = [];
  sim.createLink('eth0');
  sim.addAddress('eth0', HOST4);
  sim.addAddress('eth0', HOST6);
  return {
    operator: operatorOf(sim),
    open: () => {
      const kernel = wrap(sim.open());
      opened.push(kernel);
      return kernel;
    },
    close: async () => {
      for (const kernel of opened) kernel.close();
    },
  };
}

function operatorOf(sim: SimKernel): Operator {
  return {
    linkIndex: async (name) => sim.link(name).index,
    createLink: async (name) => void sim.createLink(name),
    deleteLink: async (name) => sim.deleteLink(name),
    setLinkUp: async (name, up) => sim.setLinkUp(name, up),
    setCarrier: async (name, plugged) => sim.setCarrier(name, plugged),
    addAddress: async (name, cidr) => sim.addAddress(name, cidr),
    removeAddress: async (name, cidr) => sim.removeAddress(name, cidr),
    addRoute: async (mode, route) => sim.addRoute(routeOf(sim, route), mode),
    deleteRoute: async (route) => sim.deleteRoute(routeOf(sim, route)),
  };
}

/** `ip route` finds the link of a gateway by itself; here there is only eth0. */
function routeOf(sim: SimKernel, { dev, blackhole, ...route }: OperatorRoute) {
  return blackhole
    ? { ...route, type: 'blackhole' as const }
    : { ...route, linkIndex: sim.link(dev ?? 'eth0').index };
}
