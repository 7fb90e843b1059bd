import { once } from 'node:events';
import type { IncomingMessage, ServerResponse } from 'node:http';
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
  /** The page `/metrics`; absent: there is none. */
  readonly metrics?: () => Promise<MetricsPage>;
}

export interface MetricsPage {
  readonly contentType: string;
  readonly text: string;
}

/**
 * Answers probes until `signal` aborts, then resolves with every socket closed; never rejects. `/healthz` is
 * liveness alone: a probe must not kill a daemon because etcd is down. `/readyz` is readiness, in the text
 * that flanneld uses, or in JSON when the client accepts that. `/metrics` is for Prometheus. When the port is
 * taken, a notice names the remedy and the server retries.
 */
export async function runHealthServer(options: HealthServerOptions, signal: AbortSignal): Promise<void> {
  const { clock, ip, port, log } = options;
  await keepServing(
    {
      ...options,
      what: 'health-port',
      text: `health checks at ${ip} port ${port}`,
      errorEvent: 'health-error',
      answer: (request, response) => answer(options, request, response),
      listen: async (server) => {
        server.listen(port, ip);
        await once(server, 'listening');
        const { address, port: used } = server.address() as AddressInfo;
        log.info({ event: 'health-listening', ip: address, port: used }, 'Serving health checks');
      },
      whyNot: (error) => portReasons[codeOf(error) ?? ''] ?? messageOf(error),
      look: async (server) => {
        await clock.sleep(checkIntervalMs, signal);
        return server.listening;
      },
    },
    signal,
  );
}

const portReasons: Readonly<Record<string, string>> = {
  EADDRINUSE: 'another program has this port; stop it or choose another --healthz-port',
  EADDRNOTAVAIL: 'this host does not have that address; correct --healthz-ip or add the address',
  EACCES: 'ports below 1024 need CAP_NET_BIND_SERVICE; choose a higher --healthz-port',
};

async function answer(
  { readiness, metrics }: HealthServerOptions,
  request: IncomingMessage,
  response: ServerResponse,
): Promise<void> {
  const path = (request.url ?? '').split('?', 1)[0];
  if (path !== '/healthz' && path !== '/readyz' && (path !== '/metrics' || metrics === undefined))
    return send(response, 404, 'not found');
  if (refusesMethod(response)) return send(response, 405, 'method not allowed');
  if (path === '/healthz') return send(response, 200, 'flanneld is running');
  if (path === '/metrics') {
    if (metrics) sendBody(response, { status: 200, ...(await metrics()) });
    return;
  }
  const { ready, reasons, degraded, notices } = readiness();
  send(response, ready ? 200 : 503, ready ? 'flanneld is ready' : 'flanneld is not ready', {
    ready,
    reasons: reasons.map(oneLine),
    degraded: degraded.map(oneLine),
    notices: notices.map(oneLine),
  });
}

/** `text`: the first line of the text, and `status` in JSON. */
function send(
  response: ServerResponse,
  status: number,
  text: string,
  details: Partial<Readiness> = {},
): void {
  const asJson = /\bapplication\/json\b/i.test(response.req.headers.accept ?? '');
  const { reasons = [], degraded = [], notices = [] } = details;
  // flanneld's texts have no newline at the end, and probes compare them.
  const lines = [text, ...reasons, ...degraded, ...notices].join('\n');
  const body = asJson ? `${JSON.stringify({ status: text, ...details })}\n` : lines;
  sendBody(response, { status, contentType: asJson ? 'application/json' : plainText, text: body });
}

/** Loads the metrics library at the first request: a host without Prometheus does not pay for it. */
export function metricsPage(
  load: () => Promise<{ readonly contentType: string; render(): Promise<string> }>,
): () => Promise<MetricsPage> {
  let loading: ReturnType<typeof load> | undefined;
  return async () => {
    loading ??= load();
    const metrics = await loading;
    return { contentType: metrics.contentType, text: await metrics.render() };
  };
}
