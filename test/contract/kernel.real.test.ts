import { kernelContract } from './kernel.ts';
import { makeNamespaceWorld } from './kernel-namespace.ts';
import { shared } from './kernel-world.ts';

kernelContract('Linux', () => makeNamespaceWorld());
kernelContract('Linux, shared', () => makeNamespaceWorld(shared));
