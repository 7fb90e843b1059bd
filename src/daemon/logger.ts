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
  /** Takes one whole line, its newline included, before it returns, and never throws. Default: stderr, as flanneld. */
  readonly write?: (line: string) => void;
}

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
  const write = options.write ?? lineWriter(STDERR);
  const layout = options.format === 'pretty' ? await prettyLayout(options.colors ?? false) : escapeControls;
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

/** Loaded only for people at a terminal: pino-pretty costs the start of a service nothing. */
async function prettyLayout(colors: boolean): Promise<(line: string) => string> {
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
    const message = escapeControls(JSON.stringify(record['msg'] ?? ''))
      .slice(1, -1)
      .replaceAll('\\"', '"');
    return `${escapeControls(prettify({ ...record, msg: message }).trimEnd())}\n`;
  };
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
