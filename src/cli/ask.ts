import { request } from 'node:http';

const timeoutMs = 3_000;

/** Where a daemon of this host listens. */
export type Place = { readonly socketPath: string } | { readonly host: string; readonly port: number };

export interface Answer {
  readonly status: number;
  readonly text: string;
}

/**
 * GETs `path`. Of an answer that is longer than `longest` characters, or has no end, the beginning: somewhat more than
 * these. Rejects when there is no answer within 3 s; an error of the system has its code.
 */
export function ask(place: Place, path: string, longest: number): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const signal = AbortSignal.timeout(timeoutMs);
    // Not the global agent: it would keep the connection, and with it this process, open.
    const asked = request({ ...place, path, agent: false, signal }, (response) => {
      let text = '';
      const finish = () => resolve({ status: response.statusCode ?? 0, text });
      response.setEncoding('utf8');
      response.on('data', (part: string) => {
        text += part;
        if (text.length <= longest) return;
        finish();
        asked.destroy();
      });
      response.once('end', finish);
      response.once('error', reject);
    });
    asked.once('error', (error) =>
      reject(signal.aborted ? new Error(`it did not answer within ${timeoutMs / 1000} s`) : error),
    );
    asked.end();
  });
}
