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
const defaultTimeoutMs = 5_000;
const longestHeadersBytes = 8_192;
const mostConnections = 100;

export type Answer = (request: IncomingMessage, response: ServerResponse) => void | Promise<void>;

/** Not listening yet; nobody can hold it up, nor fill it. What `answer` fails with is logged and answered with a 500. */
export function limitedServer(log: Logger, answer: Answer, timeoutMs = defaultTimeoutMs): Server {
  const server = createServer(
    {
      maxHeaderSize: longestHeadersBytes,
      headersTimeout: timeoutMs,
      requestTimeout: timeoutMs,
      keepAliveTimeout: timeoutMs,
      connectionsCheckingInterval: timeoutMs / 5,
    },
    (request, response) => void answerSafely(log, answer, request, response),
  );
  server.maxConnections = mostConnections;
  return server;
}

/** Never rejects: a handler that did, or threw, would end the process. */
async function answerSafely(
  log: Logger,
  answer: Answer,
  request: IncomingMessage,
  response: ServerResponse,
): Promise<void> {
  try {
    await answer(request, response);
  } catch (error) {
    const path = oneLine(`${request.url}`);
    log.error(
      { event: 'answer-failed', error },
      `a request for ${path} cannot be answered: ${messageOf(error)}`,
    );
    if (response.headersSent) response.destroy();
    else sendBody(request, response, failed(error));
  }
}

function failed(error: unknown): Body {
  return {
    status: 500,
    contentType: 'text/plain; charset=utf-8',
    text: `cannot be answered: ${messageOf(error)}`,
  };
}

export interface Served {
  readonly activity?: Activity | undefined;
  readonly clock: Clock;
  /** Told when the address cannot be had: the host does its work all the same. */
  readonly notices: TroubleLog;
  /** A stable name of what is served, for the notices and the watchdog. */
  readonly what: string;
  /** The same for people, with the address: `health checks at 127.0.0.1 port 8471`. */
  readonly text: string;
  /** Why the address cannot be had, and what to do; default: the error's message. */
  readonly whyNot?: (error: unknown) => string;
}

/**
 * Serves until `signal` aborts, then resolves; never rejects. `serve` calls `onServing` once it listens, then every
 * {@link checkIntervalMs}. It rejects when it cannot listen: that is a notice, and the next try follows.
 */
export async function keepServing(
  { activity, clock, notices, what, text, whyNot = messageOf }: Served,
  signal: AbortSignal,
  serve: (onServing: () => void) => Promise<void>,
): Promise<void> {
  const onServing = () => {
    activity?.round(what, stuckMs);
    notices.clear(what, `${text} can be served now`);
  };
  for (let attempt = 0; !signal.aborted; attempt++) {
    activity?.round(what, stuckMs);
    try {
      await serve(onServing);
    } catch (error) {
      notices.report(what, `${text} cannot be served: ${whyNot(error)}`, { error });
      await clock.sleep(backoffCeilingMs(listenBackoff, attempt), signal).catch(() => {});
    }
  }
  activity?.end(what);
}

/** Resolves with every socket closed. */
export function closeServer(server: Server): Promise<void> {
  return new Promise((resolve) => {
    // The callback also comes, with an error, when the server never listened.
    server.close(() => resolve());
    server.closeAllConnections();
  });
}

/** Whether it is neither GET nor HEAD; then the header for the answer, which is left to the caller, is set. */
export function refusesMethod(request: IncomingMessage, response: ServerResponse): boolean {
  if (request.method === 'GET' || request.method === 'HEAD') return false;
  response.setHeader('Allow', 'GET, HEAD');
  return true;
}

export interface Body {
  readonly status: number;
  readonly contentType: string;
  readonly text: string;
}

/** Answers; without the text when only its head was asked for. */
export function sendBody(
  request: IncomingMessage,
  response: ServerResponse,
  { status, contentType, text }: Body,
): void {
  response.writeHead(status, {
    'Content-Type': contentType,
    'Content-Length': Buffer.byteLength(text),
    'Cache-Control': 'no-store',
    // A body is not waited for, however much of it is announced.
    ...(hasBody(request) ? { Connection: 'close' } : {}),
  });
  response.end(request.method === 'HEAD' ? undefined : text);
}

function hasBody({ headers }: IncomingMessage): boolean {
  return headers['transfer-encoding'] !== undefined || (headers['content-length'] ?? '0') !== '0';
}
