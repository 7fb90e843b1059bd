import type { Server as HttpServer } from 'node:http';
import type { Server } from 'node:net';
import { systemClock } from '../../src/daemon/host/clock.ts';
import { type MetricsPage, runHealthServer } from '../../src/daemon/report/health.ts';
import type { Readiness } from '../../src/daemon/state.ts';
import type { Clock, LogFields, Logger } from '../../src/runtime/effects.ts';
import { TroubleLog } from '../../src/runtime/trouble.ts';

interface Entry {
  readonly level: string;
  readonly fields: LogFields;
  readonly message: string;
}

export const cleanups: (() => Promise<void>)[] = [];

/** Stops what this module started; for afterEach. */
export async function cleanUp(): Promise<void> {
  for (const cleanup of cleanups.splice(0).toReversed()) await cleanup();
}

function recorder(): { log: Logger; entries: Entry[] } {
  const entries: Entry[] = [];
  const at = (level: string) => (fields: LogFields, message: string) =>
    void entries.push({ level, fields, message });
  return { entries, log: { debug: at('debug'), info: at('info'), warn: at('warn'), error: at('error') } };
}

export async function waitFor<T>(what: string, probe: () => T | undefined): Promise<T> {
  const deadlineMs = performance.now() + 10_000;
  for (let found = probe(); ; found = probe()) {
    if (found !== undefined) return found;
    if (performance.now() > deadlineMs) throw new Error(`waited in vain for ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

/** What a server is given beside its address; `entries` is what it logs, its notices among it. */
export function serving(clock: Clock = systemClock) {
  const { log, entries } = recorder();
  const notices = new TroubleLog(clock, log);
  return { clock, log, notices, entries };
}

export async function start(
  readiness: () => Readiness = () => ({ ready: true, reasons: [], degraded: [], notices: [] }),
  ip = '127.0.0.1',
  metrics?: () => Promise<MetricsPage>,
) {
  const { entries, ...parts } = serving();
  const controller = new AbortController();
  const options = { ip, port: 0, ...parts, readiness, ...(metrics && { metrics }) };
  const run = runHealthServer(options, controller.signal);
  const stop = async () => {
    controller.abort();
    await run;
  };
  cleanups.push(stop);
  const listening = await waitFor('the port', () =>
    entries.find(({ fields }) => fields['event'] === 'health-listening'),
  );
  return { port: Number(listening.fields['port']), entries, stop };
}

export const notReady = (): Readiness => ({
  ready: false,
  reasons: ['etcd is away', 'no lease\nyet'],
  degraded: [],
  notices: [],
});

export function listen<T extends Server | HttpServer>(server: T): Promise<T> {
  cleanups.push(() => close(server));
  return new Promise((resolve) => server.listen(0, '127.0.0.1', () => resolve(server)));
}

export function close(server: Server | HttpServer): Promise<void> {
  if ('closeAllConnections' in server) server.closeAllConnections();
  return new Promise((resolve) => {
    server.close(() => resolve());
  });
}
