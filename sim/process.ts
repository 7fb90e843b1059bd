import type { Arp, ArpSocket } from '../src/arp/arp.ts';
import type { Kernel, KernelEvents } from '../src/kernel/kernel.ts';
import type { Clock, Commands, Files, Logger, Notifier } from '../src/runtime/effects.ts';
import type { Registry, WatchBatch, WatchRequest } from '../src/subnet/registry/registry.ts';
import type { HostClock } from './host-clock.ts';

/**
 * A process that can be killed between any two steps. All it does outside itself goes through here: once it is dead no answer
 * arrives any more, so that whatever waited for one, `finally` blocks included, never runs. What was on its way to etcd or
 * the kernel still gets there. While its host is suspended answers wait.
 */
export class SimProcess {
  readonly #clock: HostClock;
  readonly #onDeath = new Set<() => void>();
  #dead = false;
  #callsLeft = Number.POSITIVE_INFINITY;

  constructor(clock: HostClock) {
    this.#clock = clock;
  }

  get dead(): boolean {
    return this.#dead;
  }

  /** Has `cleanUp` called when it is killed: what the operating system does with the sockets of a dead process. */
  atDeath(cleanUp: () => void): void {
    this.#onDeath.add(cleanUp);
  }

  kill(): void {
    if (this.#dead) return;
    this.#dead = true;
    for (const cleanUp of this.#onDeath) cleanUp();
  }

  /** Kills it at the `calls`th step from now: with .5 before what that step asks for is sent, else when its answer arrives. */
  killAfter(calls: number): void {
    this.#callsLeft = calls;
  }

  /** Runs one step outside the process. */
  call<T>(start: () => Promise<T>): Promise<T> {
    return new Promise((resolve, reject) => {
      this.#callsLeft -= 1;
      const last = this.#callsLeft <= 0;
      if (this.#callsLeft === -0.5) this.kill();
      if (this.#dead) return;
      const deliver = async (settle: () => void): Promise<void> => {
        if (this.#clock.suspended) await this.#clock.resumed();
        if (last) this.kill();
        if (!this.#dead) settle();
      };
      start().then(
        (value) => void deliver(() => resolve(value)),
        (error: unknown) => void deliver(() => reject(error)),
      );
    });
  }

  clock(): Clock {
    const clock = this.#clock;
    return {
      now: () => clock.now(),
      monotonic: () => clock.monotonic(),
      sleep: (ms, signal) => this.call(() => clock.sleep(ms, signal)),
    };
  }

  registry(inner: Registry): Registry {
    this.atDeath(() => inner.close());
    return {
      endpoint: inner.endpoint,
      range: (request, signal) => this.call(() => inner.range(request, signal)),
      txn: (request, signal) => this.call(() => inner.txn(request, signal)),
      leaseGrant: (ttl, signal, id) => this.call(() => inner.leaseGrant(ttl, signal, id)),
      leaseKeepAlive: (id, signal) => this.call(() => inner.leaseKeepAlive(id, signal)),
      leaseTimeToLive: (id, signal) => this.call(() => inner.leaseTimeToLive(id, signal)),
      leaseRevoke: (id, signal) => this.call(() => inner.leaseRevoke(id, signal)),
      watch: (request, signal) => this.#watch(inner, request, signal),
      close: () => inner.close(),
    };
  }

  kernel(inner: Kernel): Kernel {
    this.atDeath(() => inner.close());
    return {
      missingCapabilities: () => this.call(() => inner.missingCapabilities()),
      subscribe: async () => this.#events(await this.call(() => inner.subscribe())),
      links: (signal) => this.call(() => inner.links(signal)),
      addresses: (signal) => this.call(() => inner.addresses(signal)),
      routes: (family, signal) => this.call(() => inner.routes(family, signal)),
      routeTo: (address, signal) => this.call(() => inner.routeTo(address, signal)),
      apply: (changes, signal) => this.call(() => inner.apply(changes, signal)),
      close: () => inner.close(),
    };
  }

  arp(inner: Arp): Arp {
    return {
      open: (linkIndex, address) => {
        const socket = inner.open(linkIndex, address);
        this.atDeath(() => socket.close());
        return this.#arpSocket(socket);
      },
    };
  }

  #arpSocket(inner: ArpSocket): ArpSocket {
    return {
      send: (packet) => this.#say(() => inner.send(packet)),
      next: (signal) => this.call(() => inner.next(signal)),
      close: () => inner.close(),
    };
  }

  files(inner: Files): Files {
    return {
      readText: (path) => this.call(() => inner.readText(path)),
      writeAtomic: (path, content, mode) => this.call(() => inner.writeAtomic(path, content, mode)),
      writeInPlace: (path, content) => this.call(() => inner.writeInPlace(path, content)),
      watch: (path, onChange) => {
        const end = inner.watch(path, () => this.#say(onChange));
        this.#onDeath.add(end);
        return () => {
          this.#onDeath.delete(end);
          end();
        };
      },
    };
  }

  commands(inner: Commands): Commands {
    return { run: (...call) => this.call(() => inner.run(...call)) };
  }

  notifier(inner: Notifier): Notifier {
    return {
      ready: () => this.#say(() => inner.ready()),
      ...(inner.watchdogMs === undefined ? {} : { watchdogMs: inner.watchdogMs }),
      alive: () => this.#say(() => inner.alive()),
      status: (text) => this.#say(() => inner.status(text)),
      stopping: () => this.#say(() => inner.stopping()),
    };
  }

  log(inner: Logger): Logger {
    return {
      debug: (fields, message) => this.#say(() => inner.debug(fields, message)),
      info: (fields, message) => this.#say(() => inner.info(fields, message)),
      warn: (fields, message) => this.#say(() => inner.warn(fields, message)),
      error: (fields, message) => this.#say(() => inner.error(fields, message)),
    };
  }

  #say(what: () => void): void {
    if (!this.#dead) what();
  }

  #events(inner: KernelEvents): KernelEvents {
    return {
      next: (signal) => this.call(() => inner.next(signal)),
      drain: (signal) => this.call(() => inner.drain(signal)),
      close: () => inner.close(),
    };
  }

  async *#watch(inner: Registry, request: WatchRequest, signal: AbortSignal): AsyncGenerator<WatchBatch> {
    const stream = inner.watch(request, signal)[Symbol.asyncIterator]();
    const end = () => void stream.return?.().catch(() => undefined);
    this.#onDeath.add(end);
    try {
      for (;;) {
        const step = await this.call(() => stream.next());
        if (step.done) return;
        yield step.value;
      }
    } finally {
      this.#onDeath.delete(end);
      await stream.return?.();
    }
  }
}
