import type { Random } from '../src/runtime/effects.ts';
import type { VirtualClock } from './clock.ts';
import type { SimV2Etcd } from './etcd-v2.ts';
import { V2Refusal } from './etcd-v2-store.ts';
import { SimFiles } from './files.ts';
import { Flannel071, type Flannel071Options } from './flannel-071.ts';
import type { Route071, RouteTable071 } from './flannel-071-routes.ts';
import type { Flannel071Access, Flannel071Answer, Flannel071Request } from './flannel-071-store.ts';
import type { SimKernel } from './kernel.ts';

const subnetFile = '/run/flannel/subnet.env';

/** Where a model of flannel 0.7.1 runs. Kernel and files outlive it. */
export interface Flannel071Place {
  readonly clock: VirtualClock;
  readonly random: Random;
  readonly etcd: SimV2Etcd;
  /** Has the address `publicIp` on `link`. */
  readonly kernel: SimKernel;
  /** Default `eth0`. */
  readonly link?: string;
  /** Default: a disk of its own. */
  readonly files?: SimFiles;
}

/** flannel 0.7.1 on a simulated host: a process that can be ended and started again. */
export class Flannel071Host {
  readonly files: SimFiles;
  /** What all of its processes logged. */
  readonly log: string[] = [];
  /** What they asked of etcd, in order. */
  readonly asked: Flannel071Request[] = [];
  /** What the last process ended with by itself. */
  ended: unknown;
  readonly #place: Flannel071Place;
  readonly #options: Flannel071Options;
  #run:
    | { readonly controller: AbortController; readonly flannel: Flannel071; readonly done: Promise<void> }
    | undefined;

  constructor(place: Flannel071Place, options: Omit<Flannel071Options, 'mtu'>) {
    this.#place = place;
    this.#options = { mtu: 1500, ...options };
    this.files = place.files ?? new SimFiles();
  }

  get publicIp(): string {
    return this.#options.publicIp;
  }

  get running(): boolean {
    return this.#run !== undefined;
  }

  /** The subnet of the process that runs, `10.5.1.0/24`; undefined before it has one. */
  get subnet(): string | undefined {
    return this.#run?.flannel.subnet?.text;
  }

  /** The routes by way of a gateway, whoever made them, as `dst via gateway`, sorted. */
  get routes(): readonly string[] {
    return gatewayRoutes(this.#place.kernel)
      .map(({ dst, gateway }) => `${dst} via ${gateway}`)
      .toSorted();
  }

  /** The text of subnet.env. */
  async subnetEnv(): Promise<string | undefined> {
    return await this.files.readText(subnetFile);
  }

  start(): void {
    if (this.#run !== undefined) throw new Error('flannel 0.7.1 is running already');
    const { clock, random, etcd, kernel, link = 'eth0' } = this.#place;
    const access = accessTo(etcd);
    const ask: Flannel071Access['ask'] = (request, signal) => {
      this.asked.push(request);
      return access.ask(request, signal);
    };
    const parts = {
      clock,
      random,
      etcd: { ...access, ask },
      routes: tableOf(kernel, link),
      writeSubnetEnv: (text: string) => this.files.writeAtomic(subnetFile, text, 0o644),
      log: (line: string) => void this.log.push(line),
    };
    const flannel = new Flannel071(parts, this.#options);
    const controller = new AbortController();
    this.ended = undefined;
    const done = flannel.run(controller.signal).catch((error: unknown) => {
      this.ended = error;
      this.#run = undefined;
    });
    this.#run = { controller, flannel, done };
  }

  /** SIGTERM. */
  async stop(): Promise<void> {
    const run = this.#run;
    this.#run = undefined;
    run?.controller.abort(new Error('SIGTERM'));
    await run?.done;
  }
}

/** The way to an in-memory etcd, by its first member. */
function accessTo(etcd: SimV2Etcd): Flannel071Access {
  const member = etcd.member(etcd.members[0] ?? '');
  return {
    async ask({ method, key, query, form }, signal): Promise<Flannel071Answer> {
      if (method === 'DELETE') return remove(etcd, key);
      const request = { method, key, query, ...(form === undefined ? {} : { form }), asUser: true };
      const answer = await member.ask(request, signal);
      return { status: answer.status, index: answer.index, body: await answer.body() };
    },
    // The one in memory writes no date.
    timeOf: (expiration) => Number.parseInt(expiration, 10),
  };
}

/** Only its members' PUT and GET are modelled as requests: our own client deletes nothing. */
function remove(etcd: SimV2Etcd, key: string): Flannel071Answer {
  try {
    return { status: 200, body: JSON.stringify(etcd.delete(key)), index: etcd.index };
  } catch (error) {
    if (!(error instanceof V2Refusal)) throw error;
    const { status, code: errorCode, message } = error;
    return { status, body: JSON.stringify({ errorCode, message }), index: etcd.index };
  }
}

function tableOf(kernel: SimKernel, link: string): RouteTable071 {
  const linkIndex = () => kernel.link(link).index;
  return {
    list: async () => gatewayRoutes(kernel),
    async add(route) {
      kernel.addRoute({ ...route, linkIndex: linkIndex() });
    },
    async delete(route) {
      kernel.deleteRoute({ ...route, linkIndex: linkIndex() });
    },
  };
}

function gatewayRoutes(kernel: SimKernel): readonly Route071[] {
  return kernel.routes(4).flatMap(({ dst, gateway }) => (gateway === undefined ? [] : [{ dst, gateway }]));
}
