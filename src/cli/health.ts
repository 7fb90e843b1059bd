import { codeOf, messageOf } from '../runtime/errors.ts';
import { oneLine } from '../runtime/texts.ts';
import { ask } from './status.ts';

/** Where the daemon was told to serve its health. */
export interface HealthAddress {
  readonly ip: string;
  readonly port: number;
}

/** Whatever listens there may send for ever; the beginning says enough. */
const longestAnswer = 200;

/**
 * Asks the daemon on this host whether it is alive (`/healthz`), prints one line, and resolves to the exit code: 0 it is, 1
 * it is not. Made for a container's HEALTHCHECK. Never rejects.
 */
export async function runHealth({ ip, port }: HealthAddress, timeoutMs?: number): Promise<0 | 1> {
  const host = ip === '0.0.0.0' ? '127.0.0.1' : ip === '::' ? '::1' : ip;
  const where = `http://${host.includes(':') ? `[${host}]` : host}:${port}/healthz`;
  try {
    const answer = await ask({ host, port }, '/healthz', longestAnswer, timeoutMs);
    const { status } = answer;
    const text = oneLine(answer.text.slice(0, longestAnswer));
    if (status === 200) {
      process.stdout.write(`${text}\n`);
      return 0;
    }
    process.stdout.write(`unhealthy: ${where} answered ${status}: ${text}\n`);
  } catch (error) {
    const refused = codeOf(error) === 'ECONNREFUSED';
    const why = refused
      ? 'nobody listens there. Does the daemon run, and are these its --healthz-ip and --healthz-port?'
      : messageOf(error);
    process.stdout.write(`unhealthy: no answer from ${where}: ${why}\n`);
  }
  return 1;
}
