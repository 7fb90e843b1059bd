import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import type { Activity } from '../../runtime/activity.ts';
import type { Clock, Logger } from '../../runtime/effects.ts';
import { codeOf, messageOf } from '../../runtime/errors.ts';
import { oneLine } from '../../runtime/texts.ts';
import type { TroubleLog } from '../../runtime/trouble.ts';
import { checkIntervalMs, closeServer, keepServing, limitedServer, refusesMethod, sendBody } from './http.ts';

/** Whether the daemon does its work; the reasons why not, one line each. */
export interface Readiness {
  readonly ready: boolean;
  readonly reasons: readonly string[];
  /** Faults of peers, one line each: this host is ready all the same. */
  readonly degraded: readonly string[];
  /** What the operator should know although all is well, one line each. */
  readonly notices: readonly string[];
}

export interface HealthServerOptions {
  readonly ip: string;
  /** 0: any free port; the log line `health-listening` says which. */
  readonly port: number;
  readonly activity?: Activity;
  readonly clock: Clock;
  readonly log: Logger;
  /** Told of a port that cannot be had. */
  readonly notices: TroubleLog;
  readonly readiness: () => Readiness;
  /** The daemon's figures for `/metrics`; without it there is no such page. */
  readonly metrics?: () => Promise<MetricsPage>;
  /** How long one request may take; default: what {@link limitedServer} allows. */
  readonly timeoutMs?: number;
}

export interface MetricsPage {
  readonly contentType: string;
  readonly text: string;
}

/**
 * Answers probes: `/healthz` is liveness alone (a probe must not kill a daemon because etcd is away), `/readyz` tells
 * whether routes are kept up. Text as flanneld's, JSON when the client asks for it. `/metrics` is for Prometheus.
 */
export class HealthServer {
  readonly #options: HealthServerOptions;

  constructor(options: HealthServerOptions) {
    this.#options = options;
  }

  /**
   * Serves until `signal` aborts, then resolves with every socket closed. A port that cannot be had is a notice, with the
   * remedy, and tried again for ever. Never rejects.
   */
  async run(signal: AbortSignal): Promise<void> {
    const { activity, clock, notices, ip, port } = this.#options;
    const text = `health checks at ${ip} port ${port}`;
    const served = { activity, clock, notices, what: 'health-port', text, whyNot };
    await keepServing(served, signal, (onServing) => this.#serve(onServing, signal));
  }

  /** Rejects when the port cannot be had; resolves when it was served until the signal. */
  async #serve(onServing: () => void, signal: AbortSignal): Promise<void> {
    const { clock, ip, port, log, timeoutMs } = this.#options;
    const server = limitedServer(log, (request, response) => this.#answer(request, response), timeoutMs);
    try {
      const address = await listen(server, ip, port);
      log.info(
        { event: 'health-listening', ip: address.address, port: address.port },
        'Health checks are served',
      );
      server.on('error', (error) =>
        log.warn({ event: 'health-error', error }, `Health server: ${messageOf(error)}`),
      );
      while (server.listening && !signal.aborted) {
        onServing();
        await clock.sleep(checkIntervalMs, signal).catch(() => {});
      }
    } finally {
      await closeServer(server);
    }
  }

  async #answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const path = (request.url ?? '').split('?', 1)[0];
    const { metrics } = this.#options;
    if (path !== '/healthz' && path !== '/readyz' && (path !== '/metrics' || metrics === undefined)) {
      send(request, response, { status: 404, text: 'not found', details: {} });
    } else if (refusesMethod(request, response)) {
      send(request, response, { status: 405, text: 'method not allowed', details: {} });
    } else if (path === '/metrics') {
      if (metrics) sendBody(request, response, { status: 200, ...(await metrics()) });
    } else if (path === '/healthz') {
      send(request, response, { status: 200, text: 'flanneld is running', details: {} });
    } else {
      const { ready, reasons, degraded, notices } = this.#options.readiness();
      const text = ready ? 'flanneld is ready' : 'flanneld is not ready';
      send(request, response, {
        status: ready ? 200 : 503,
        text,
        details: {
          ready,
          reasons: reasons.map(oneLine),
          degraded: degraded.map(oneLine),
          notices: notices.map(oneLine),
        },
      });
    }
  }
}

interface Reply {
  readonly status: number;
  /** First line of the text, and `status` in JSON. */
  readonly text: string;
  readonly details: Partial<Readiness>;
}

function send(request: IncomingMessage, response: ServerResponse, { status, text, details }: Reply): void {
  const asJson = /\bapplication\/json\b/i.test(request.headers.accept ?? '');
  // flanneld ends its texts without a newline, and probes compare them.
  const { reasons = [], degraded = [], notices = [] } = details;
  const lines = [text, ...reasons, ...degraded, ...notices];
  const body = asJson ? `${JSON.stringify({ status: text, ...details })}\n` : lines.join('\n');
  const contentType = asJson ? 'application/json' : 'text/plain; charset=utf-8';
  sendBody(request, response, { status, contentType, text: body });
}

function listen(server: Server, ip: string, port: number): Promise<AddressInfo> {
  return new Promise((resolve, reject) => {
    server.once('error', reject);
    server.listen(port, ip, () => {
      server.off('error', reject);
      const address = server.address();
      if (address === null || typeof address === 'string')
        reject(new TypeError('a TCP server without an address'));
      else resolve(address);
    });
  });
}

function whyNot(error: unknown): string {
  const code = codeOf(error);
  if (code === 'EADDRINUSE') return 'another program has this port; stop it or choose another --healthz-port';
  if (code === 'EADDRNOTAVAIL')
    return 'this host does not have that address; correct --healthz-ip or add the address';
  if (code === 'EACCES') return 'ports below 1024 need CAP_NET_BIND_SERVICE; choose a higher --healthz-port';
  return messageOf(error);
}
