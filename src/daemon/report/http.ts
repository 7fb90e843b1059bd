import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { Activity } from '../../runtime/activity.ts';
import type { Clock, Logger } from '../../runtime/effects.ts';
import { messageOf } from '../../runtime/errors.ts';
import { type BackoffPolicy, backoffCeilingMs } from '../../runtime/retry.ts';
import { oneLine } from '../../runtime/texts.ts';
import type { TroubleLog } from '../../runtime/trouble.ts';

// What the two servers have in common: the one for probes, and the one for `flanneld-ts status`.

const listenBackoff: BackoffPolicy = { initialMs: 1_000, maxMs: 30_000 };
/** How often each server looks whether its address is still its own. */
export const checkIntervalMs = 10_000;
/** Longer than all of its waits. */
const stuckMs = 120_000;
/** What is asked here is one small request. Whoever needs longer, sends more or opens more connections asks for something else. */
const requestTimeoutMs = 5_000;
const longestHeadersBytes = 8_192;
const mostConnections = 100;

export const plainText = 'text/plain; charset=utf-8';

type Answer = (request: IncomingMessage, response: ServerResponse) => void | Promise<void>;

/** Not listening yet; nobody can hold it up, nor fill it. What `answer` fails with is logged and answered with a 500. */
function limitedServer(log: Logger, answer: Answer): Server {
  const server = createServer({
    maxHeaderSize: longestHeadersBytes,
    headersTimeout: requestTimeoutMs,
    requestTimeout: requestTimeoutMs,
    keepAliveTimeout: requestTimeoutMs,
    connectionsCheckingInterval: 1_000,
  });
  server.maxConnections = mostConnections;
  // A handler that rejected, or threw, would end the process.
  const answerSafely = async (request: IncomingMessage, response: ServerResponse) => {
    try {
      await answer(request, response);
    } catch (error) {
      const fields = { event: 'answer-failed', error };
      log.error(fields, `a request for ${oneLine(`${request.url}`)} cannot be answered: ${messageOf(error)}`);
      if (response.headersSent) response.destroy();
      else {
        const text = `cannot be answered: ${messageOf(error)}`;
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
  /** Gets a notice while the server cannot listen. That has no effect on routes. */
  readonly notices: TroubleLog;
}

/** What one server serves, and where. */
export interface Served extends ServerOptions {
  /** A stable name, for the notices and the watchdog. */
  readonly what: string;
  /** The same for people, with the address: `health checks at 127.0.0.1 port 8471`. */
  readonly text: string;
  /** The log's event for an error of the server itself. */
  readonly errorEvent: string;
  readonly answer: Answer;
  /** Resolves when the server listens. */
  readonly listen: (server: Server) => Promise<void>;
  /** Why it cannot listen, and what to do. */
  readonly whyNot: (error: unknown) => string;
  /** Waits for the next look; resolves to whether clients still reach the server. */
  readonly look: (server: Server, signal: AbortSignal) => Promise<boolean>;
}

/**
 * Serves until `signal` aborts, then resolves with every socket closed; never rejects. When the server cannot listen, that is a
 * notice, and the next attempt follows.
 */
export async function keepServing(served: Served, signal: AbortSignal): Promise<void> {
  const { activity, clock, notices, what, text } = served;
  for (let attempt = 0; !signal.aborted; attempt++) {
    activity?.round(what, stuckMs);
    try {
      await serve(served, signal);
    } catch (error) {
      if (signal.aborted) break;
      notices.report(what, `${text} cannot be served: ${served.whyNot(error)}`, { error });
      await clock.sleep(backoffCeilingMs(listenBackoff, attempt), signal).catch(() => {});
    }
  }
  activity?.end(what);
}

/** Resolves when clients cannot reach the server any more. */
async function serve(served: Served, signal: AbortSignal): Promise<void> {
  const { activity, log, notices, what, text, errorEvent } = served;
  const server = limitedServer(log, served.answer);
  try {
    await served.listen(server);
    server.on('error', (error) => log.warn({ event: errorEvent, error }, `${text}: ${messageOf(error)}`));
    do {
      activity?.round(what, stuckMs);
      notices.clear(what, `${text} can be served now`);
    } while (await served.look(server, signal));
  } finally {
    // The callback also comes, with an error, when the server never listened.
    const closed = new Promise<void>((resolve) => void server.close(() => resolve()));
    server.closeAllConnections();
    await closed;
  }
}

/** Whether it is neither GET nor HEAD; then the header for the answer, which is left to the caller, is set. */
export function refusesMethod(response: ServerResponse): boolean {
  const isRead = response.req.method === 'GET' || response.req.method === 'HEAD';
  if (!isRead) response.setHeader('Allow', 'GET, HEAD');
  return !isRead;
}

/** Answers; without the text when only its head was asked for. */
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
    // A body is not waited for, however much of it is announced.
    ...(hasBody ? { Connection: 'close' } : {}),
  });
  response.end(method === 'HEAD' ? undefined : text);
}
