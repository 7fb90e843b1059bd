import { request } from 'node:http';
import { oneLine } from '../runtime/escape.ts';

/** Where the daemon was told to serve its health. */
export interface HealthTarget {
  readonly ip: string;
  readonly port: number;
}

const TIMEOUT_MS = 3_000;
const LONGEST_ANSWER = 200;

/**
 * Asks the daemon on this host whether it is alive (`/healthz`), prints one line, and resolves to the exit code: 0 it is, 1
 * it is not. Made for a container's HEALTHCHECK. Never rejects.
 */
export async function runHealth({ ip, port }: HealthTarget): Promise<0 | 1> {
  const host = ip === '0.0.0.0' ? '127.0.0.1' : ip === '::' ? '::1' : ip;
  const where = `http://${host.includes(':') ? `[${host}]` : host}:${port}/healthz`;
  try {
    const { status, text } = await get(host, port);
    if (status === 200) {
      process.stdout.write(`${text}\n`);
      return 0;
    }
    process.stdout.write(`unhealthy: ${where} answered ${status}: ${text}\n`);
  } catch (error) {
    process.stdout.write(
      `unhealthy: no answer from ${where}: ${error instanceof Error ? error.message : String(error)}\n`,
    );
  }
  return 1;
}

function get(host: string, port: number): Promise<{ readonly status: number; readonly text: string }> {
  return new Promise((resolve, reject) => {
    // Not the global agent: it would keep the connection, and with it this process, open.
    const signal = AbortSignal.timeout(TIMEOUT_MS);
    const asked = request({ host, port, path: '/healthz', agent: false, signal }, (response) => {
      let text = '';
      response.setEncoding('utf8');
      // Whatever listens there may send for ever; the beginning says enough.
      response.on('data', (part: string) => {
        text = (text + part).slice(0, LONGEST_ANSWER);
      });
      response.once('end', () => resolve({ status: response.statusCode ?? 0, text: oneLine(text) }));
      response.once('error', reject);
    });
    asked.once('error', (error) => {
      reject(signal.aborted ? new Error(`timed out after ${TIMEOUT_MS / 1000} s`) : error);
    });
    asked.end();
  });
}
