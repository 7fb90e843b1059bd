import type { Clock, LogFields, Logger } from '../src/runtime/effects.ts';

export interface LogLine {
  readonly atMs: number;
  readonly level: 'debug' | 'info' | 'warn' | 'error';
  readonly host: string;
  readonly fields: LogFields;
  readonly message: string;
}

/** Keeps the log lines of all hosts of a simulation in one list, in the order in which they happened. */
export class SimLog {
  readonly lines: LogLine[] = [];
  readonly #clock: Clock;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** The logger of one host. */
  of(host: string): Logger {
    const at =
      (level: LogLine['level']) =>
      (fields: LogFields, message: string): void => {
        this.lines.push({ atMs: this.#clock.monotonic(), level, host, fields, message });
      };
    return { debug: at('debug'), info: at('info'), warn: at('warn'), error: at('error') };
  }

  /** Lines with this `event` field, of one host or of all. */
  events(event: string, host?: string): readonly LogLine[] {
    return this.lines.filter((line) => line.fields['event'] === event && (host ?? line.host) === line.host);
  }

  /** One line per entry: two runs of one seed give the same text. */
  toString(): string {
    return this.lines
      .map((line) => `${line.atMs.toFixed(3)} ${line.host} ${line.level} ${line.message}`)
      .join('\n');
  }
}
