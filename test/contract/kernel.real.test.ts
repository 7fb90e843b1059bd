import { kernelContract } from './kernel.ts';
import { makeNamespaceWorld } from './kernel-namespace.ts';

kernelContract('Linux', makeNamespaceWorld);
