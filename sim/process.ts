import type { Arp, ArpSocket } from '../src/arp/arp.ts';
import type { Kernel } from '../src/kernel/kernel.ts';
import type { Clock, Commands, Files, Logger, Notifier } from '../src/runtime/effects.ts';
import type { V2Store } from '../src/subnet/etcd-v2/store.ts';
import type { Registry } from '../src/subnet/registry/registry.ts';
import { altered } from './altered.ts';
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
    return this.#steps<Clock>(clock, { now: () => clock.now(), monotonic: () => clock.monotonic() });
  }

  registry(inner: Registry): Registry {
    this.atDeath(() => inner.close());
    const watch: Registry['watch'] = (request, signal) => this.#watch(() => inner.watch(request, signal));
    return this.#steps(inner, { watch, close: () => inner.close() });
  }

  v2Store(inner: V2Store): V2Store {
    // Its poll waits for what happens next, and would be open for a minute.
    const death = new AbortController();
    this.atDeath(() => death.abort(new Error('killed')));
    const watch: V2Store['watch'] = (dir, after, signal) =>
      this.#watch(() => inner.watch(dir, after, AbortSignal.any([signal, death.signal])));
    return this.#steps(inner, { watch });
  }

  kernel(inner: Kernel): Kernel {
    this.atDeath(() => inner.close());
    const subscribe = async () => {
      const events = await this.call(() => inner.subscribe());
      return this.#steps(events, { close: () => events.close() });
    };
    return this.#steps(inner, { subscribe, close: () => inner.close() });
  }

  arp(inner: Arp): Arp {
    return {
      open: (...call) => {
        const socket = inner.open(...call);
        this.atDeath(() => socket.close());
        const send: ArpSocket['send'] = (packet) => this.#say(() => socket.send(packet));
        return this.#steps(socket, { send, close: () => socket.close() });
      },
    };
  }

  files(inner: Files): Files {
    return this.#steps(inner, {
      watch: (path, onChange) => {
        const end = inner.watch(path, () => this.#say(onChange));
        this.#onDeath.add(end);
        return () => {
          this.#onDeath.delete(end);
          end();
        };
      },
    });
  }

  commands(inner: Commands): Commands {
    return this.#steps(inner);
  }

  /** The service manager, or the log: nothing is heard of a dead process. */
  telling<T extends Notifier | Logger>(inner: T): T {
    return altered<T>(
      inner,
      {},
      (method) =>
        (...args) =>
          this.#say(() => method(...args)),
    );
  }

  #say(what: () => void): void {
    if (!this.#dead) what();
  }

  /** A part each of whose methods is a step outside the process, but for those that are replaced. */
  #steps<T extends object>(inner: T, replaced: Partial<NoInfer<T>> = {}): T {
    return altered<T>(inner, replaced, (method) => (...args) => {
      return this.call(() => method(...args) as Promise<unknown>);
    });
  }

  async *#watch<T>(open: () => AsyncIterable<T>): AsyncGenerator<T> {
    const stream = open()[Symbol.asyncIterator]();
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
