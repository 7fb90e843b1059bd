import { readFileSync } from 'node:fs';
import { exec, until } from './commands.ts';
import { RunningProcess } from './process.ts';

/** One notification of the kernel, as `ip monitor` printed it: `[ROUTE]172.20.1.0/24 via … `, `[ROUTE]Deleted …`, `[LINK]…`. */
export interface KernelEventLine {
  /** When `ip monitor` read it, in milliseconds since the epoch. */
  readonly atMs: number;
  readonly text: string;
}

/** `ip monitor` in a namespace: links, addresses and routes in one stream, in the kernel's order, with times. */
export class KernelMonitor {
  readonly #namespace: string;
  readonly #process: RunningProcess;
  readonly #events: KernelEventLine[] = [];
  #linesRead = 0;
  #fences = 0;

  constructor(namespace: string, process: RunningProcess) {
    this.#namespace = namespace;
    this.#process = process;
  }

  /** All that has been read. What the kernel tells at this moment may be missing: {@link since} waits for it. */
  get events(): readonly KernelEventLine[] {
    const lines = this.#process.stdout;
    while (this.#linesRead < lines.length) this.#events.push(...parse(lines[this.#linesRead++] ?? ''));
    return this.#events;
  }

  /** Where the stream is once all up to the moment of the call has been read: a place for {@link since} and {@link waitFor}. */
  async mark(): Promise<number> {
    await this.fence();
    return this.events.length;
  }

  /** Everything after `mark`, up to the moment of the call: a fence makes sure that it has all been read. */
  async since(mark: number): Promise<readonly KernelEventLine[]> {
    await this.fence();
    return this.events.slice(mark).filter(({ text }) => !isFence(text));
  }

  /** What {@link since} tells of routes, without the label: `172.20.1.0/24 via …`, `Deleted 172.20.1.0/24 via …`. */
  async routesSince(mark: number): Promise<readonly string[]> {
    return (await this.since(mark)).flatMap(({ text }) => routeOf(text) ?? []);
  }

  /** The first event after `mark` that matches; rejects after `timeoutMs`. */
  async waitFor(pattern: RegExp, mark = 0, timeoutMs = 20_000): Promise<KernelEventLine> {
    let next = mark;
    const find = () => {
      const found = this.events.slice(next).find(({ text }) => pattern.test(text));
      next = this.events.length;
      return found;
    };
    return await this.#process.waitFor(find, timeoutMs, `waiting for ${String(pattern)} from ip monitor`);
  }

  /** Makes a harmless change in a table of its own and waits for it: what happened before has been read then. */
  async fence(): Promise<void> {
    const mark = this.events.length;
    const address = `192.0.2.${(this.#fences++ % 254) + 1}`;
    await exec(this.#namespace, 'ip', 'route', 'add', 'blackhole', address, 'table', '999');
    await exec(this.#namespace, 'ip', 'route', 'del', 'blackhole', address, 'table', '999');
    await this.waitFor(new RegExp(`^\\[ROUTE\\]Deleted \\S+ ${address} .*table 999`), mark);
  }

  async stop(): Promise<void> {
    await this.#process.stop();
  }
}

/** Starts `ip monitor`; resolves once it is subscribed, so that no later change is missed. */
export async function monitorKernel(namespace: string): Promise<KernelMonitor> {
  const inNamespace = ['nsenter', `--net=/run/netns/${namespace}`, '--'];
  const ip = ['ip', '-N', '-ts', '-o', '-rcvbuf', '16777216', 'monitor', 'label', 'link', 'address', 'route'];
  // Its times are local ones, without a zone.
  const process = new RunningProcess([...inNamespace, ...ip], {
    env: { ...globalThis.process.env, TZ: 'UTC' },
  });
  await until(
    () => isSubscribed(process.pid),
    10_000,
    () => `ip monitor: ${process.tail()}`,
  );
  return new KernelMonitor(namespace, process);
}

/**
 * The deletions among these events of routes (without the label) after which nothing is known to be left for their destination: of a
 * route that another one took the place of before it was deleted, packets miss nothing.
 */
export function gaps(events: readonly string[]): readonly string[] {
  const live = new Map<string, Set<string>>();
  return events.filter((text) => {
    const [, deleted, route = ''] = /^(Deleted )?(?:replace )?(?:unicast )?(.*?) *$/.exec(text) ?? [];
    const [dst = ''] = route.split(' ');
    const there = live.get(dst) ?? new Set();
    live.set(dst, there);
    if (deleted === undefined) there.add(route);
    else there.delete(route);
    return deleted !== undefined && there.size === 0;
  });
}

/** What an event tells of a route, without the label; undefined when it is about something else. */
export function routeOf(text: string): string | undefined {
  return /^\[ROUTE\](.*)$/.exec(text)?.[1];
}

function parse(line: string): readonly KernelEventLine[] {
  const [, time = '', text = ''] = /^\[(\d{4}-\d\d-\d\dT[\d:.]+)\] (.*)$/.exec(line) ?? [];
  return text === '' ? [] : [{ atMs: Date.parse(`${time.slice(0, 23)}Z`), text }];
}

function isFence(text: string): boolean {
  return text.startsWith('[ROUTE]') && text.includes('table 999');
}

/** Whether the process has a route socket that listens to a group (columns: sk, protocol, port id, groups, …). */
function isSubscribed(pid: number): boolean {
  const rows = readFileSync(`/proc/${pid}/net/netlink`, 'utf8').split('\n').slice(1);
  return rows
    .map((row) => row.split(/\s+/))
    .some(([, protocol, port, groups]) => protocol === '0' && port === String(pid) && groups !== '00000000');
}
