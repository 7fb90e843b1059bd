import { once } from 'node:events';
import { stat } from 'node:fs/promises';
import { type IncomingMessage, request } from 'node:http';
import type { OutsideRoute, PeerRoute, Reason, RefusedLease } from '../backend/hostgw/status.ts';
import { codeOf, messageOf } from '../runtime/errors.ts';
import { oneLine } from '../runtime/texts.ts';
import type { TroubleRecord } from '../runtime/trouble.ts';
import type { JunkKeys } from '../subnet/lease/watch/reader.ts';

/**
 * The answer of the daemon to `flanneld-ts status`; as it is with --json. Times are ISO 8601 in UTC. Programs read it: names and
 * meanings stay, fields may come.
 */
export interface StatusView {
  readonly version: string;
  readonly startedAt: string;
  readonly now: string;
  /** What /readyz says. */
  readonly ready: boolean;
  /** One line: where the boot stands, or how many peers are routed. */
  readonly summary: string;
  /** Why this host is not ready: its own faults. The same lines as in /readyz. */
  readonly reasons: readonly string[];
  /** Faults of peers: this host is ready all the same. */
  readonly degraded: readonly string[];
  /** Worth knowing, without effect. */
  readonly notices: readonly string[];
  /** Null: not acquired yet. */
  readonly lease: LeaseStatus | null;
  /** Whether the watch of the leases is up. */
  readonly watching: boolean;
  /** How many leases of the cluster can be read; null before they have been listed. */
  readonly leases: number | null;
  /** When the routes were last seen to be as the leases want them; null before the first time. */
  readonly lastSync: string | null;
  /** By subnet, IPv4 first. */
  readonly peers: readonly PeerStatus[];
  /** Those of `peers` in that state: a route of another program has their place. */
  readonly conflicts: readonly PeerStatus[];
  /** Leases of peers that ask for a route they cannot get. */
  readonly refused: readonly RefusedLease[];
  /** Leases outside the cluster's network, which are routed all the same. */
  readonly outside: readonly (Pick<OutsideRoute, 'key' | 'network'> & { readonly subnet: string })[];
  /** Keys among the leases that are none: how many, and the first of them. */
  readonly junk: JunkKeys;
  /** The last troubles of every kind by their beginning: those that are over, and those that last. */
  readonly errors: readonly TroubleStatus[];
}

export interface LeaseStatus {
  readonly key: string;
  readonly state: string;
  readonly subnets: readonly string[];
  readonly addresses: readonly string[];
  /** Null: a reservation, which does not end. */
  readonly secondsLeft: number | null;
}

export interface PeerStatus extends Pick<PeerRoute, 'key' | 'gateway' | 'state'> {
  readonly subnet: string;
  /** Why it is not installed; null when nothing is wrong. */
  readonly reason: string | null;
  readonly fault: Reason['fault'] | null;
  readonly remedy: string | null;
  /** Since when it is in this state. */
  readonly since: string;
}

export interface TroubleStatus extends Pick<TroubleRecord, 'what' | 'message' | 'attempts'> {
  /** own: this host was not ready for it. */
  readonly kind: 'own' | 'degraded' | 'notice';
  readonly since: string;
  /** Null while it lasts. */
  readonly over: string | null;
}

/** The daemon's answer, or why there is none, in sentences for the operator; `absent`: nobody listens there. */
export type StatusAnswer =
  | { readonly view: StatusView }
  | { readonly silent: string; readonly absent: boolean };

/** Ten thousand peers are three megabytes. */
const longestAnswer = 64 << 20;
const longestReason = 500;

/** Asks the daemon. `command`: who asks, for the operator who has to ask again. */
export async function fetchStatus(socketPath: string, command: string): Promise<StatusAnswer> {
  try {
    const { status, text } = await ask({ socketPath }, '/status', longestAnswer);
    if (status === 500) throw new Error(text.slice(0, longestReason));
    if (text.length > longestAnswer) throw new Error('its answer has no end');
    return { view: parseView(text) };
  } catch (error) {
    const isRefused = ['ENOENT', 'ECONNREFUSED'].includes(codeOf(error) ?? '');
    const there = isRefused ? await stat(socketPath).catch(() => undefined) : undefined;
    const absent = isRefused && (there === undefined || there.isSocket());
    const silent = isRefused ? noDaemon(socketPath, absent) : noStatus(socketPath, command, error);
    return { silent: oneLine(silent), absent };
  }
}

/** The daemon may be of another version; what is no answer of any version is told apart. */
function parseView(text: string): StatusView {
  const view: unknown = JSON.parse(text);
  if (typeof view !== 'object' || view === null || !('peers' in view) || !Array.isArray(view.peers))
    throw new SyntaxError('no status');
  // That of an older daemon has no faults of peers.
  return { degraded: [], ...view } as unknown as StatusView;
}

function noDaemon(path: string, absent: boolean): string {
  if (!absent) return `${path} is not a socket`;
  return (
    `No daemon answers at ${path}. Is it running? systemctl status flanneld. ` +
    'If it was started with another --subnet-file or --status-socket, pass the same flag.'
  );
}

function noStatus(path: string, command: string, error: unknown): string {
  const code = codeOf(error);
  if (code === 'EACCES') return `Only root may read the daemon's status: sudo flanneld-ts ${command}`;
  // Node's HTTP parser names what it cannot read HPE_….
  if (error instanceof SyntaxError || code?.startsWith('HPE_'))
    return `What answers at ${path} is no flanneld-ts`;
  return `The daemon at ${path} gives no status: ${messageOf(error)}`;
}

const timeoutMs = 3_000;

/** Where a daemon of this host listens. */
type Place = { readonly socketPath: string } | { readonly host: string; readonly port: number };

/**
 * GETs `path`. Of an answer that is longer than `longest` characters, or has no end, the beginning: somewhat more than
 * these. Rejects when there is no answer within 3 s; an error of the system has its code.
 */
async function ask(
  place: Place,
  path: string,
  longest: number,
): Promise<{ readonly status: number; readonly text: string }> {
  const signal = AbortSignal.timeout(timeoutMs);
  try {
    // Not the global agent: it would keep the connection, and with it this process, open.
    const asked = request({ ...place, path, agent: false, signal }).end();
    const [response]: IncomingMessage[] = await once(asked, 'response');
    // An answer that breaks off rejects below; the request reports that, too.
    asked.on('error', () => {});
    let text = '';
    for await (const part of response?.setEncoding('utf8') ?? []) {
      text += part;
      if (text.length > longest) break;
    }
    return { status: response?.statusCode ?? 0, text };
  } catch (error) {
    throw signal.aborted ? new Error(`it did not answer within ${timeoutMs / 1000} s`) : error;
  }
}

/** Whatever listens there may send for ever; the beginning says enough. */
const longestHealth = 200;

/**
 * Asks the daemon on this host whether it is alive (`/healthz`), prints one line, and resolves to the exit code: 0 it is, 1
 * it is not. Made for a container's HEALTHCHECK. Never rejects.
 */
export async function runHealth({
  ip,
  port,
}: {
  readonly ip: string;
  readonly port: number;
}): Promise<0 | 1> {
  const host = ip === '0.0.0.0' ? '127.0.0.1' : ip === '::' ? '::1' : ip;
  const where = `http://${host.includes(':') ? `[${host}]` : host}:${port}/healthz`;
  const say = (line: string) => process.stdout.write(`${line}\n`);
  try {
    const { status, text } = await ask({ host, port }, '/healthz', longestHealth);
    const line = oneLine(text.slice(0, longestHealth));
    say(status === 200 ? line : `unhealthy: ${where} answered ${status}: ${line}`);
    return status === 200 ? 0 : 1;
  } catch (error) {
    const why =
      codeOf(error) === 'ECONNREFUSED'
        ? 'nobody listens there. Does the daemon run, and are these its --healthz-ip and --healthz-port?'
        : messageOf(error);
    say(`unhealthy: no answer from ${where}: ${why}`);
    return 1;
  }
}
