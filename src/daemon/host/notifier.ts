import process from 'node:process';
import { sendDatagram } from '../../native/libc.ts';
import type { Logger, Notifier } from '../../runtime/effects.ts';
import { messageOf } from '../../runtime/errors.ts';
import { oneLine } from '../../runtime/texts.ts';

const LONGEST_STATUS_BYTES = 1024;

/**
 * Tells systemd, if it started us: NOTIFY_SOCKET in `env` holds the path of its socket, or an abstract name after an `@`. Without
 * it nothing is sent. A failure is logged once: systemd then takes the daemon for one that still starts, for as long as the
 * unit lets it, and this line says why.
 *
 * `send` sends one datagram to the socket of that name, and may throw.
 */
export function systemdNotifier(
  env: Readonly<Record<string, string | undefined>>,
  log: Logger,
  send: (path: string, text: string) => void = sendDatagram,
): Notifier {
  const socket = env['NOTIFY_SOCKET'] ?? '';
  let failed = false;
  const notify = (text: string) => {
    // Other address families (vsock:, of machines in machines) are not for a network daemon on its host.
    if (!/^[/@]./.test(socket)) return;
    try {
      send(socket, text);
    } catch (error) {
      if (failed) return;
      failed = true;
      log.warn(
        { event: 'notify-failed', socket, error },
        `systemd could not be told ${text.split('\n', 1)[0]}: ${messageOf(error)}`,
      );
    }
  };
  const watchdogMs = watchdogOf(env);
  return {
    ...(watchdogMs !== undefined && { watchdogMs }),
    alive: () => notify('WATCHDOG=1'),
    ready: () => notify('READY=1'),
    status: (text) => notify(`STATUS=${statusText(text)}`),
    stopping: () => notify('STOPPING=1'),
  };
}

/** WATCHDOG_USEC, unless it is meant for another process than this. */
function watchdogOf(env: Readonly<Record<string, string | undefined>>): number | undefined {
  const { WATCHDOG_USEC: usec = '', WATCHDOG_PID: pid } = env;
  if (!/^[1-9]\d*$/.test(usec) || (pid !== undefined && pid !== String(process.pid))) return undefined;
  return Number(usec) / 1000;
}

/** A newline would begin another assignment. */
function statusText(text: string): string {
  const flat = oneLine(text);
  const bytes = Buffer.from(flat);
  if (bytes.length <= LONGEST_STATUS_BYTES) return flat;
  // A character cut in two decodes to U+FFFD at the end.
  return bytes
    .subarray(0, LONGEST_STATUS_BYTES)
    .toString()
    .replace(/\ufffd$/, '');
}
