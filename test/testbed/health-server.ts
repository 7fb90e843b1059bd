import type { Server as HttpServer } from 'node:http';
import type { Server } from 'node:net';
import { systemClock } from '../../src/daemon/host/clock.ts';
import { type HealthServerOptions, runHealthServer } from '../../src/daemon/report/health.ts';
import type { Readiness } from '../../src/daemon/state.ts';
import type { Clock, LogFields, Logger } from '../../src/runtime/effects.ts';
import { TroubleLog } from '../../src/runtime/trouble.ts';
import { until } from './commands.ts';

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

/** What a server is given beside its address; `entries` is what it logs, its notices among it. */
export function serving(clock: Clock = systemClock) {
  const { log, entries } = recorder();
  const notices = new TroubleLog(clock, log);
  return { clock, log, notices, entries };
}

export async function start(
  readiness: () => Readiness = () => ({ ready: true, reasons: [], degraded: [], notices: [] }),
  ip = '127.0.0.1',
  more: Pick<HealthServerOptions, 'metrics' | 'timeoutMs'> = {},
) {
  const { entries, ...parts } = serving();
  const controller = new AbortController();
  const options = { ip, port: 0, ...parts, readiness, ...more };
  const run = runHealthServer(options, controller.signal);
  const stop = async () => {
    controller.abort();
    await run;
  };
  cleanups.push(stop);
  await until(() => isListening(entries), 10_000, 'no port');
  return { port: Number(entries[0]?.fields['port']), entries, stop };
}

export function isListening(entries: readonly Entry[]): boolean {
  return entries.some(({ fields }) => fields['event'] === 'health-listening');
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
