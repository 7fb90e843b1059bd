import { once } from 'node:events';
import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { codeOf, messageOf } from '../../runtime/errors.ts';
import { oneLine } from '../../runtime/texts.ts';
import type { Readiness } from '../state.ts';
import {
  checkIntervalMs,
  keepServing,
  plainText,
  refusesMethod,
  type ServerOptions,
  sendBody,
} from './http.ts';

export interface HealthServerOptions extends ServerOptions {
  readonly ip: string;
  /** 0: any free port; the log line `health-listening` says which. */
  readonly port: number;
  readonly readiness: () => Readiness;
  /** The daemon's figures for `/metrics`; without it there is no such page. */
  readonly metrics?: () => Promise<MetricsPage>;
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
    const { clock, ip, port, log } = this.#options;
    const served = {
      ...this.#options,
      what: 'health-port',
      text: `health checks at ${ip} port ${port}`,
      errorEvent: 'health-error',
      answer: (request: IncomingMessage, response: ServerResponse) => this.#answer(request, response),
      listen: async (server: Server) => {
        server.listen(port, ip);
        await once(server, 'listening');
        const { address, port: used } = server.address() as AddressInfo;
        log.info({ event: 'health-listening', ip: address, port: used }, 'Health checks are served');
      },
      whyNot,
      look: async (server: Server) => {
        await clock.sleep(checkIntervalMs, signal);
        return server.listening;
      },
    };
    await keepServing(served, signal);
  }

  async #answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const path = (request.url ?? '').split('?', 1)[0];
    const { metrics } = this.#options;
    if (path !== '/healthz' && path !== '/readyz' && (path !== '/metrics' || metrics === undefined)) {
      send(request, response, 404, 'not found');
    } else if (refusesMethod(request, response)) {
      send(request, response, 405, 'method not allowed');
    } else if (path === '/metrics') {
      if (metrics) sendBody(request, response, { status: 200, ...(await metrics()) });
    } else if (path === '/healthz') {
      send(request, response, 200, 'flanneld is running');
    } else {
      const { ready, reasons, degraded, notices } = this.#options.readiness();
      send(request, response, ready ? 200 : 503, ready ? 'flanneld is ready' : 'flanneld is not ready', {
        ready,
        reasons: reasons.map(oneLine),
        degraded: degraded.map(oneLine),
        notices: notices.map(oneLine),
      });
    }
  }
}

/** `text`: the first line of the text, and `status` in JSON. */
function send(
  request: IncomingMessage,
  response: ServerResponse,
  status: number,
  text: string,
  details: Partial<Readiness> = {},
): void {
  const asJson = /\bapplication\/json\b/i.test(request.headers.accept ?? '');
  const { reasons = [], degraded = [], notices = [] } = details;
  // flanneld ends its texts without a newline, and probes compare them.
  const lines = [text, ...reasons, ...degraded, ...notices].join('\n');
  const body = asJson ? `${JSON.stringify({ status: text, ...details })}\n` : lines;
  const contentType = asJson ? 'application/json' : plainText;
  sendBody(request, response, { status, contentType, text: body });
}

function whyNot(error: unknown): string {
  const code = codeOf(error);
  if (code === 'EADDRINUSE') return 'another program has this port; stop it or choose another --healthz-port';
  if (code === 'EADDRNOTAVAIL')
    return 'this host does not have that address; correct --healthz-ip or add the address';
  if (code === 'EACCES') return 'ports below 1024 need CAP_NET_BIND_SERVICE; choose a higher --healthz-port';
  return messageOf(error);
}
