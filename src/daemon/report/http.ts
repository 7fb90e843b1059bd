import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { Activity } from '../../runtime/activity.ts';
import type { Clock, Logger } from '../../runtime/effects.ts';
import { messageOf } from '../../runtime/errors.ts';
import { type BackoffPolicy, backoffCeilingMs } from '../../runtime/retry.ts';
import { oneLine } from '../../runtime/texts.ts';
import type { TroubleLog } from '../../runtime/trouble.ts';

// The server for probes and the one for `flanneld-ts status` share this.

const listenBackoff: BackoffPolicy = { initialMs: 1_000, maxMs: 30_000 };
/** How often each server checks that clients can reach it. */
export const checkIntervalMs = 10_000;
/** Longer than any wait of the loop. */
const stuckMs = 120_000;
/** Requests are small. A client that needs longer, sends more or opens more connections is not a probe. */
const defaultTimeoutMs = 5_000;
const longestHeadersBytes = 8_192;
const mostConnections = 100;

export const plainText = 'text/plain; charset=utf-8';

type RequestHandler = (request: IncomingMessage, response: ServerResponse) => void | Promise<void>;

/**
 * A server with bounds on time, size and connections. It logs an error of `answer` and answers with a 500.
 */
export function limitedServer(log: Logger, answer: RequestHandler, timeoutMs = defaultTimeoutMs): Server {
  const server = createServer({
    maxHeaderSize: longestHeadersBytes,
    headersTimeout: timeoutMs,
    requestTimeout: timeoutMs,
    keepAliveTimeout: timeoutMs,
    connectionsCheckingInterval: timeoutMs / 5,
  });
  server.maxConnections = mostConnections;
  // A handler that throws would end the process.
  const answerSafely = async (request: IncomingMessage, response: ServerResponse) => {
    try {
      await answer(request, response);
    } catch (error) {
      const fields = { event: 'answer-failed', error };
      log.error(fields, `cannot answer a request for ${oneLine(`${request.url}`)}: ${messageOf(error)}`);
      if (response.headersSent) response.destroy();
      else {
        const text = `cannot answer: ${messageOf(error)}`;
        sendBody(response, { status: 500, contentType: plainText, text });
      }
    }
  };
  return server.on('request', (request, response) => void answerSafely(request, response));
}

export interface ServerOptions {
  readonly activity?: Activity;
  readonly clock: Clock;
  readonly log: Logger;
  /** Holds a notice while the server cannot listen. Routes do not depend on it. */
  readonly notices: TroubleLog;
  /** How long one request may take; default: 5 s. */
  readonly timeoutMs?: number;
  /** Called whenever the server begins to listen, or has said why it cannot. */
  readonly onTried?: () => void;
}

/** What one server serves, and where. */
export interface Served extends ServerOptions {
  /** A stable name, for the notices and the watchdog. */
  readonly what: string;
  /** The same for people, with the address: `health checks at 127.0.0.1 port 8471`. */
  readonly text: string;
  /** The log's event for an error of the server itself. */
  readonly errorEvent: string;
  readonly answer: RequestHandler;
  /** Resolves when the server listens. */
  readonly listen: (server: Server) => Promise<void>;
  /** Why it cannot listen, and what to do. */
  readonly whyNot: (error: unknown) => string;
  /** Waits for the next look; resolves to whether clients still reach the server. */
  readonly look: (server: Server) => Promise<boolean>;
}

/**
 * Serves until `signal` aborts, then resolves with every socket closed; never rejects. When the server cannot
 * listen, that is a notice, and the next attempt follows.
 */
export async function keepServing(served: Served, signal: AbortSignal): Promise<void> {
  const { activity, clock, notices, what, text } = served;
  for (let attempt = 0; !signal.aborted; attempt++) {
    activity?.round(what, stuckMs);
    try {
      await serve(served);
    } catch (error) {
      if (signal.aborted) break;
      notices.report(what, `cannot serve ${text}: ${served.whyNot(error)}`, { error });
      served.onTried?.();
      await clock.sleep(backoffCeilingMs(listenBackoff, attempt), signal).catch(() => {});
    }
  }
  activity?.end(what);
}

/** Resolves when clients cannot reach the server any more. */
async function serve(served: Served): Promise<void> {
  const { activity, log, notices, what, text, errorEvent } = served;
  const server = limitedServer(log, served.answer, served.timeoutMs);
  try {
    await served.listen(server);
    served.onTried?.();
    server.on('error', (error) => log.warn({ event: errorEvent, error }, `${text}: ${messageOf(error)}`));
    do {
      activity?.round(what, stuckMs);
      notices.clear(what, `serving ${text} again`);
    } while (await served.look(server));
  } finally {
    // The callback runs even when the server never listened, then with an error.
    const closed = new Promise<void>((resolve) => void server.close(() => resolve()));
    server.closeAllConnections();
    await closed;
  }
}

/** Whether the request is neither GET nor HEAD. Then it sets the header Allow, and the caller answers. */
export function refusesMethod(response: ServerResponse): boolean {
  const isRead = response.req.method === 'GET' || response.req.method === 'HEAD';
  if (!isRead) response.setHeader('Allow', 'GET, HEAD');
  return !isRead;
}

/** Answers; HEAD gets no text. */
export function sendBody(
  response: ServerResponse,
  {
    status,
    contentType,
    text,
  }: { readonly status: number; readonly contentType: string; readonly text: string },
): void {
  const { headers, method } = response.req;
  const hasBody = headers['transfer-encoding'] !== undefined || (headers['content-length'] ?? '0') !== '0';
  response.writeHead(status, {
    'Content-Type': contentType,
    'Content-Length': Buffer.byteLength(text),
    'Cache-Control': 'no-store',
    // The server does not wait for the body of a request.
    ...(hasBody ? { Connection: 'close' } : {}),
  });
  response.end(method === 'HEAD' ? undefined : text);
}
