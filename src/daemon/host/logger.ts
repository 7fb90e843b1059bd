import { writeSync } from 'node:fs';
import { type DestinationStream, pino, stdTimeFunctions } from 'pino';
import type { Logger } from '../../runtime/effects.ts';
import { codeOf, FlannelError, isBug } from '../../runtime/errors.ts';
import { escapeControls } from '../../runtime/texts.ts';

export interface LoggerOptions {
  readonly level: 'debug' | 'info' | 'warn' | 'error';
  readonly format: 'json' | 'pretty';
  /** Colours for a terminal; only with `pretty`. */
  readonly colors?: boolean;
  /** What is written goes to systemd's journal, which reads priorities and has the time itself. */
  readonly journal?: boolean;
  /** Takes one whole line, its newline included, before it returns, and never throws. Default: stderr, as flanneld. */
  readonly write?: (line: string) => void;
}

type Layout = (line: string) => string;

const STDERR = 2;
const DEEPEST_CAUSE = 5;

/** Fields whose value is never printed, at the top or one level down. */
const SECRETS = ['password', 'etcdPassword', 'token', 'authorization', 'secret'];

/**
 * A logger whose lines are out when the call returns: nothing is lost at exit, and no worker thread is needed. One event is
 * one line in either format; control characters in texts come out escaped, so no value can forge a line or drive a
 * terminal. Errors in fields become objects with message, code, remedy and cause.
 */
export async function createLogger(options: LoggerOptions): Promise<Logger> {
  const layout = await layoutOf(options);
  const write = options.write ?? lineWriter(STDERR, writeSync, layout);
  const stream: DestinationStream = { write: (line) => write(layout(line)) };
  const logger = pino(
    {
      level: options.level,
      base: null,
      timestamp: stdTimeFunctions.isoTime,
      formatters: { level: (level) => ({ level }), log: printable },
      redact: { paths: SECRETS.flatMap((name) => [name, `*.${name}`]), censor: '[not shown]' },
    },
    stream,
  );
  return {
    debug: (fields, message) => logger.debug(fields, message),
    info: (fields, message) => logger.info(fields, message),
    warn: (fields, message) => logger.warn(fields, message),
    error: (fields, message) => logger.error(fields, message),
  };
}

/** Turns a line of JSON into one as it is written. */
async function layoutOf({ format, colors = false, journal = false }: LoggerOptions): Promise<Layout> {
  if (!journal) return format === 'pretty' ? await prettyLayout(colors) : escapeControls;
  const text = format === 'pretty' ? journalText : escapeControls;
  return (line) => journalPrefix(/^\{"level":"(\w+)"/.exec(line)?.[1]) + text(line);
}

/** syslog's priorities, which the journal takes off the beginning of a line: for `journalctl -p warning`. */
const priorities: Readonly<Record<string, number>> = { error: 3, warn: 4, info: 6, debug: 7 };

/** What the beginning of a line of that level is for the journal. */
export function journalPrefix(level = 'info'): string {
  return `<${priorities[level] ?? 6}>`;
}

/** The message, then the fields as words; of an error whose message is in it already only the code. */
function journalText(line: string): string {
  const { level: _, time: __, event: ___, msg = '', ...fields } = JSON.parse(line) as Record<string, unknown>;
  const words = Object.entries(fields).map(([name, value]) => `${name}=${fieldText(value)}`);
  return `${escapeControls([inOneLine(msg), ...words].join(' '))}\n`;
}

function fieldText(value: unknown): string {
  if (typeof value === 'string' && /^[\w.,:/&@+-]+$/.test(value)) return value;
  const known = typeof value === 'object' && value !== null && 'code' in value && !('stack' in value);
  return known ? String(value.code) : JSON.stringify(value);
}

/** Loaded only for people at a terminal: pino-pretty costs the start of a service nothing. */
async function prettyLayout(colors: boolean): Promise<Layout> {
  const { prettyFactory } = await import('pino-pretty');
  const prettify = prettyFactory({
    colorize: colors,
    singleLine: true,
    translateTime: 'SYS:yyyy-mm-dd HH:MM:ss.l',
    ignore: 'event',
    errorLikeObjectKeys: [],
  });
  return (line) => {
    const record: Record<string, unknown> = JSON.parse(line);
    // pino-pretty quotes every text but the message, whose newlines it keeps.
    return `${escapeControls(prettify({ ...record, msg: inOneLine(record['msg']) }).trimEnd())}\n`;
  };
}

/** A message with its newlines escaped. */
function inOneLine(message: unknown): string {
  return escapeControls(JSON.stringify(message ?? ''))
    .slice(1, -1)
    .replaceAll('\\"', '"');
}

function printable(fields: Record<string, unknown>): Record<string, unknown> {
  const entries = Object.entries(fields);
  if (!entries.some(([, value]) => value instanceof Error)) return fields;
  return Object.fromEntries(
    entries.map(([name, value]) => [name, value instanceof Error ? describeError(value) : value]),
  );
}

/** A stack says more than the message at mistakes in the program and at errors nobody gave a code. */
function describeError(error: Error, depth = 0): Record<string, unknown> {
  const code = 'code' in error ? error.code : undefined;
  const remedy = error instanceof FlannelError ? error.remedy : undefined;
  const { cause } = error;
  return {
    type: error.name,
    message: error.message,
    ...(code === undefined ? {} : { code }),
    ...(code === undefined || isBug(error) ? { stack: error.stack } : {}),
    ...(remedy === undefined ? {} : { remedy }),
    ...(cause === undefined || depth >= DEEPEST_CAUSE ? {} : { cause: describeCause(cause, depth + 1) }),
  };
}

function describeCause(cause: unknown, depth: number): unknown {
  return cause instanceof Error ? describeError(cause, depth) : cause;
}

/** How long one line may wait for a reader that does not read. */
const PATIENCE_MS = 100;
const PAUSE_MS = 5;

/**
 * Returns a function that writes whole lines to a descriptor and is done when it returns. A log that cannot be written is no
 * reason to stop routing: when nobody reads (EPIPE), the disk is full or a non-blocking pipe stays full, lines are
 * dropped, and their number is written as soon as there is room again.
 *
 * `write` is fs.writeSync. `layout` makes of a line of JSON what the lines of this log look like.
 */
export function lineWriter(
  fd: number,
  write: (fd: number, bytes: Buffer) => number = writeSync,
  layout: (line: string) => string = (line) => line,
): (line: string) => void {
  let lost = 0;
  // The end of a line that went out in part: without it the next line would be glued to the first half.
  let unfinished = Buffer.alloc(0);
  return (line) => {
    const msg = `lines of this log were lost, because nobody read them: ${lost}`;
    const notice =
      lost === 0
        ? ''
        : layout(`${JSON.stringify({ level: 'warn', event: 'log-lines-lost', lines: lost, msg })}\n`);
    const text = Buffer.from(notice + line);
    // After a loss only one try: a reader that hangs must not cost us PATIENCE_MS for every line.
    const rest = writeAll(fd, Buffer.concat([unfinished, text]), write, lost === 0 ? PATIENCE_MS : 0);
    if (rest === 0) {
      lost = 0;
      unfinished = Buffer.alloc(0);
    } else if (rest >= text.length) {
      lost += 1;
      unfinished = unfinished.subarray(Math.max(0, unfinished.length - (rest - text.length)));
    } else {
      lost = 0;
      unfinished = Buffer.from(text.subarray(text.length - rest));
    }
  };
}

/** Writes what it can, and returns how many bytes at the end are left. */
function writeAll(
  fd: number,
  bytes: Buffer,
  write: (fd: number, bytes: Buffer) => number,
  patienceMs: number,
): number {
  let at = 0;
  let waitedMs = 0;
  while (at < bytes.length) {
    try {
      at += write(fd, bytes.subarray(at));
    } catch (error) {
      const full = codeOf(error) === 'EAGAIN';
      if (!full || waitedMs >= patienceMs) break;
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, PAUSE_MS);
      waitedMs += PAUSE_MS;
    }
  }
  return bytes.length - at;
}
