import { once } from 'node:events';
import { stat } from 'node:fs/promises';
import { type IncomingMessage, request } from 'node:http';
import type { OutsideRoute, PeerRoute, Reason, RefusedLease } from '../backend/hostgw/status.ts';
import { codeOf, messageOf } from '../runtime/errors.ts';
import { oneLine } from '../runtime/texts.ts';
import type { TroubleRecord } from '../runtime/trouble.ts';
import type { JunkKeys } from '../subnet/lease/watch/reader.ts';

/**
 * The daemon's answer to `flanneld-ts status`, printed by --json. Times are ISO 8601 in UTC. Programs read
 * it: names and meanings do not change, but new fields may be added.
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
  /** Faults of peers, which leave this host ready. */
  readonly degraded: readonly string[];
  /** Warnings, which leave this host ready. */
  readonly notices: readonly string[];
  /** Null: not acquired yet. */
  readonly lease: LeaseStatus | null;
  /** Whether the watch of the leases is up. */
  readonly watching: boolean;
  /** Number of valid leases in the cluster; null before the first list. */
  readonly leases: number | null;
  /** When the routes last matched the leases; null before the first time. */
  readonly lastSync: string | null;
  /** By subnet, IPv4 first. */
  readonly peers: readonly PeerStatus[];
  /** Those of `peers` in the state conflict: another route is in the place of theirs. */
  readonly conflicts: readonly PeerStatus[];
  /** Leases of peers that this host cannot route. */
  readonly refused: readonly RefusedLease[];
  /** Leases outside the cluster's network. This host routes them. */
  readonly outside: readonly (Pick<OutsideRoute, 'key' | 'network'> & { readonly subnet: string })[];
  /** Keys that are not valid leases: their number, and the first of them. */
  readonly junk: JunkKeys;
  /** The last troubles of each kind, oldest first, current and past. */
  readonly errors: readonly TroubleStatus[];
}

export interface LeaseStatus {
  readonly key: string;
  readonly state: string;
  readonly subnets: readonly string[];
  readonly addresses: readonly string[];
  /** Null: a reservation, which does not expire. */
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
  /** own: it made this host not ready. */
  readonly kind: 'own' | 'degraded' | 'notice';
  readonly since: string;
  /** Null while it lasts. */
  readonly over: string | null;
}

/** The daemon's answer, or why there is none, for the operator; `absent`: no daemon listens there. */
export type StatusAnswer =
  | { readonly view: StatusView }
  | { readonly silent: string; readonly absent: boolean };

/** Ten thousand peers are three megabytes. */
const longestAnswer = 64 << 20;
const longestReason = 500;

/** Asks the daemon. `command`: the subcommand that asks, for the remedy. */
export async function fetchStatus(socketPath: string, command: string): Promise<StatusAnswer> {
  try {
    const { status, text } = await ask({ socketPath }, '/status', longestAnswer);
    if (status === 500) throw new Error(text.slice(0, longestReason));
    if (text.length > longestAnswer) throw new Error('its answer is too long');
    return { view: parseView(text) };
  } catch (error) {
    const isRefused = ['ENOENT', 'ECONNREFUSED'].includes(codeOf(error) ?? '');
    const there = isRefused ? await stat(socketPath).catch(() => undefined) : undefined;
    const absent = isRefused && (there === undefined || there.isSocket());
    const silent = isRefused ? noDaemon(socketPath, absent) : noStatus(socketPath, command, error);
    return { silent: oneLine(silent), absent };
  }
}

/** Accepts the answer of a daemon of any version. */
function parseView(text: string): StatusView {
  const view: unknown = JSON.parse(text);
  if (typeof view !== 'object' || view === null || !('peers' in view) || !Array.isArray(view.peers))
    throw new SyntaxError('no status');
  // Older daemons do not report faults of peers.
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
    return `The program at ${path} is not flanneld-ts`;
  return `The daemon at ${path} returned no status: ${messageOf(error)}`;
}

const defaultTimeoutMs = 3_000;

type DaemonAddress = { readonly socketPath: string } | { readonly host: string; readonly port: number };

/**
 * GETs `path`. Cuts an answer off after somewhat more than `longest` characters. Rejects when there is no
 * answer within `timeoutMs`; an error of the system has its code.
 */
async function ask(
  address: DaemonAddress,
  path: string,
  longest: number,
  timeoutMs = defaultTimeoutMs,
): Promise<{ readonly status: number; readonly text: string }> {
  const signal = AbortSignal.timeout(timeoutMs);
  try {
    // The global agent would keep the connection open, and this process alive.
    const asked = request({ ...address, path, agent: false, signal }).end();
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

/** Another program may listen there and send without end. */
const longestHealth = 200;

/**
 * Asks the daemon on this host whether it is alive (`/healthz`), prints one line, and resolves to the exit
 * code: 0 alive, 1 not. Made for a container's HEALTHCHECK. Never rejects.
 */
export async function runHealth(
  { ip, port }: { readonly ip: string; readonly port: number },
  timeoutMs?: number,
): Promise<0 | 1> {
  const host = ip === '0.0.0.0' ? '127.0.0.1' : ip === '::' ? '::1' : ip;
  const where = `http://${host.includes(':') ? `[${host}]` : host}:${port}/healthz`;
  const say = (line: string) => process.stdout.write(`${line}\n`);
  try {
    const { status, text } = await ask({ host, port }, '/healthz', longestHealth, timeoutMs);
    const line = oneLine(text.slice(0, longestHealth));
    say(status === 200 ? line : `unhealthy: ${where} answered ${status}: ${line}`);
    return status === 200 ? 0 : 1;
  } catch (error) {
    const why =
      codeOf(error) === 'ECONNREFUSED'
        ? 'connection refused. Is the daemon running with this --healthz-ip and --healthz-port?'
        : messageOf(error);
    say(`unhealthy: no answer from ${where}: ${why}`);
    return 1;
  }
}
