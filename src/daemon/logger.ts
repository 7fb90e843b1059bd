import { writeSync } from 'node:fs';
import { type DestinationStream, pino, stdTimeFunctions } from 'pino';
import { FlannelError, isBug } from '../runtime/errors.ts';
import { escapeControls } from '../runtime/escape.ts';
import type { Logger } from '../runtime/logger.ts';
import { lineWriter } from './log-writer.ts';

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
