import { spawn, spawnSync } from 'node:child_process';
import { closeSync, openSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { createLogger, type LoggerOptions, lineWriter } from '../../src/daemon/host/logger.ts';
import { type Logger } from '../../src/runtime/effects.ts';
import { FlannelError } from '../../src/runtime/errors.ts';
import { tempDir } from '../testbed/run.ts';

async function capture(options: Partial<LoggerOptions> = {}): Promise<{ log: Logger; lines: string[] }> {
  const lines: string[] = [];
  const log = await createLogger({
    level: 'info',
    format: 'json',
    write: (line) => lines.push(line),
    ...options,
  });
  return { log, lines };
}

function parse(line: string | undefined): Record<string, unknown> {
  const record: Record<string, unknown> = JSON.parse(line ?? '');
  return record;
}

describe("a line for systemd's journal", () => {
  it.each([
    ['debug', 7],
    ['info', 6],
    ['warn', 4],
    ['error', 3],
  ] as const)('of level %s has priority %i, in either format', async (level, priority) => {
    for (const format of ['pretty', 'json'] as const) {
      const { log, lines } = await capture({ format, journal: true, level: 'debug' });
      log[level]({ event: 'x' }, 'Something happened');
      expect(lines).toHaveLength(1);
      expect(lines[0]?.slice(0, 3)).toBe(`<${priority}>`);
      if (format === 'pretty') expect(lines[0]?.slice(3)).toBe('Something happened\n');
      else expect(parse(lines[0]?.slice(3))).toMatchObject({ level, event: 'x', msg: 'Something happened' });
    }
  });

  it('has fields as words, and of an error that the message tells the code alone', async () => {
    const { log, lines } = await capture({ format: 'pretty', journal: true });
    const error = new FlannelError('ETCD_UNAVAILABLE', 'etcd is away', { remedy: 'start it' });
    log.warn(
      { event: 'x', key: '/net/subnets/10.1.5.0-24', attempts: 3, error, list: ['a b'] },
      'etcd is away',
    );
    expect(lines).toEqual([
      '<4>etcd is away key=/net/subnets/10.1.5.0-24 attempts=3 error=ETCD_UNAVAILABLE list=["a b"]\n',
    ]);
  });

  it('is one line with one priority, whatever the text, and shows the stack of a bug', async () => {
    const { log, lines } = await capture({ format: 'pretty', journal: true });
    log.error({ error: new TypeError('oops'), text: 'a\n<6>b' }, 'first\n<6>second\u2028third');
    expect(lines).toHaveLength(1);
    expect(lines[0]).toMatch(/^<3>first\\n<6>second\\u2028third .*logger\.test/);
    expect(lines[0]?.trimEnd()).not.toMatch(/[\p{Cc}\u2028\u2029]/u);
  });
});

describe('a line of JSON', () => {
  it('holds level, time, fields and message, and no noise', async () => {
    const { log, lines } = await capture();
    log.warn({ event: 'x', count: 3 }, 'Something happened');
    expect(lines).toHaveLength(1);
    const { time, ...rest } = parse(lines[0]);
    expect(rest).toEqual({ level: 'warn', event: 'x', count: 3, msg: 'Something happened' });
    expect(time).toMatch(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/);
  });

  it.each([
    ['debug', ['debug', 'info', 'warn', 'error']],
    ['info', ['info', 'warn', 'error']],
    ['warn', ['warn', 'error']],
    ['error', ['error']],
  ] as const)('appears from level %s on', async (level, expected) => {
    const { log, lines } = await capture({ level });
    for (const name of ['debug', 'info', 'warn', 'error'] as const) log[name]({}, name);
    expect(lines.map((line) => parse(line)['msg'])).toEqual(expected);
  });

  it('describes errors with code, remedy and the chain of causes', async () => {
    const { log, lines } = await capture();
    const root = Object.assign(new Error('connect ECONNREFUSED'), { code: 'ECONNREFUSED' });
    const error = new FlannelError('ETCD_UNAVAILABLE', 'etcd is away', { remedy: 'start it', cause: root });
    // The mistakes of a program show their stack, also when Node gave them a code.
    const bug = Object.assign(new TypeError('must be a string'), { code: 'ERR_INVALID_ARG_TYPE' });
    log.error({ error, other: new TypeError('oops', { cause: 'text' }), bug }, 'x');
    const stack = expect.stringContaining('logger.test');
    expect(parse(lines[0])).toMatchObject({
      error: {
        type: 'FlannelError',
        code: 'ETCD_UNAVAILABLE',
        message: 'etcd is away',
        remedy: 'start it',
        cause: { code: 'ECONNREFUSED', message: 'connect ECONNREFUSED' },
      },
      other: { type: 'TypeError', message: 'oops', cause: 'text', stack },
      bug: { code: 'ERR_INVALID_ARG_TYPE', stack },
    });
    expect(parse(lines[0])['error']).not.toHaveProperty('stack');
  });

  it('survives errors that are their own cause, circles, and values JSON does not know', async () => {
    const { log, lines } = await capture();
    const error: Error = new Error('a');
    error.cause = error;
    const circle: Record<string, unknown> = { big: 10n, none: undefined };
    circle['self'] = circle;
    log.info({ error, circle }, 'x');
    expect(parse(lines[0])).toMatchObject({ circle: { big: 10 } });
  });

  it('never holds a password', async () => {
    const { log, lines } = await capture();
    log.info({ password: 'hunter2', etcd: { password: 'hunter2' }, etcdPassword: 'hunter2' }, 'x');
    expect(lines.join('')).not.toContain('hunter2');
    expect(parse(lines[0])['password']).toBe('[not shown]');
  });
});

describe('a pretty line', () => {
  it('holds time, level, message and fields', async () => {
    const { log, lines } = await capture({ format: 'pretty' });
    log.info({ event: 'x', subnet: '172.20.91.0/24' }, 'Lease acquired');
    log.warn({}, 'Say "no"');
    expect(lines[0]).toMatch(
      /^\[\d{4}-\d\d-\d\d [\d:.]{12}\] INFO: Lease acquired \{"subnet":"172.20.91.0\/24"\}\n$/,
    );
    expect(lines[1]).toMatch(/ WARN: Say "no"\n$/);
  });

  it('has colours only when asked', async () => {
    const escape = String.fromCharCode(27);
    for (const colors of [false, true]) {
      const { log, lines } = await capture({ format: 'pretty', colors });
      log.info({}, 'x');
      expect(lines[0]?.includes(escape)).toBe(colors);
    }
  });
});

describe('whatever is logged', () => {
  const nasty = fc.oneof(
    fc.string({ unit: 'binary' }),
    fc.string({ unit: fc.constantFrom('\u001b[2J', ...'\n\r\u009b\u2028\0\u007f\\"n{}'.split('')) }),
  );
  it.each(['json', 'pretty'] as const)('is one line without control characters: %s', async (format) => {
    const { log, lines } = await capture({ format });
    fc.assert(
      fc.property(nasty, nasty, nasty, (message, value, inner) => {
        lines.length = 0;
        log.info(
          { value, nested: { inner: [inner] }, error: new Error(value, { cause: new Error(inner) }) },
          message,
        );
        expect(lines).toHaveLength(1);
        expect(lines[0]).toMatch(/^[^\p{Cc}\u2028\u2029]+\n$/u);
        if (format === 'json') {
          expect(parse(lines[0])).toMatchObject({ value, msg: message });
        }
      }),
      { numRuns: 300 },
    );
  });
});

describe('a real process', () => {
  const module = new URL('../../src/daemon/host/logger.ts', import.meta.url).href;
  const script = (body: string) =>
    `import { createLogger } from ${JSON.stringify(module)};
     const log = await createLogger({ level: 'info', format: 'json' });
     ${body}`;

  it('has written every line when it exits at once', () => {
    const folder = tempDir('log');
    try {
      const stderr = openSync(join(folder, 'log'), 'w');
      const body = `for (let i = 0; i < 5000; i++) log.info({ i }, 'x'); process.exit(3);`;
      const { status } = spawnSync(process.execPath, ['--input-type=module', '-e', script(body)], {
        stdio: ['ignore', 'ignore', stderr],
      });
      closeSync(stderr);
      const lines = readFileSync(join(folder, 'log'), 'utf8').trimEnd().split('\n');
      expect([status, lines.length, parse(lines.at(-1))['i']]).toEqual([3, 5000, 4999]);
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  });

  it('goes on when nobody reads its log any more', async () => {
    const body = `
      log.info({}, 'first');
      await new Promise((resolve) => process.stdin.once('data', resolve));
      for (let i = 0; i < 100; i++) log.info({}, 'into the void');
      process.stdout.write('alive');
      process.exit(0);`;
    const child = spawn(process.execPath, ['--input-type=module', '-e', script(body)], { stdio: 'pipe' });
    let output = '';
    child.stdout.on('data', (data: Buffer) => {
      output += data.toString();
    });
    const exit = new Promise((resolve) => child.once('exit', (...result) => resolve(result)));
    await new Promise((resolve) => child.stderr.once('data', resolve));
    child.stderr.destroy();
    child.stdin.end('go on');
    expect(await exit).toEqual([0, null]);
    expect(output).toBe('alive');
  });
});

function failing(code: string): Error {
  return Object.assign(new Error(code), { code });
}

describe('writing lines', () => {
  /** A descriptor that takes `room` bytes, then fails with `code`. */
  class Pipe {
    text = '';
    room = Number.POSITIVE_INFINITY;
    code = 'EAGAIN';
    tries = 0;

    readonly write = (_fd: number, bytes: Buffer): number => {
      this.tries++;
      if (this.room === 0) throw failing(this.code);
      const part = bytes.subarray(0, Math.min(bytes.length, this.room));
      this.room -= part.length;
      this.text += part.toString();
      return part.length;
    };
  }

  it('finishes a line that is taken in parts', () => {
    const write = lineWriter(2, (_fd, bytes) => {
      parts.push(bytes.subarray(0, 3).toString());
      return Math.min(3, bytes.length);
    });
    const parts: string[] = [];
    write('0123456789\n');
    expect(parts).toEqual(['012', '345', '678', '9\n']);
  });

  it.each(['EPIPE', 'ENOSPC', 'EIO', 'EBADF'])(
    'drops lines on %s without a wait, and later says how many',
    (code) => {
      const pipe = new Pipe();
      Object.assign(pipe, { code, room: 0 });
      const write = lineWriter(2, pipe.write);
      write('a\n');
      write('b\n');
      expect([pipe.text, pipe.tries]).toEqual(['', 2]);
      pipe.room = Number.POSITIVE_INFINITY;
      write('c\n');
      write('d\n');
      expect(pipe.text).toBe(
        '{"level":"warn","event":"log-lines-lost","lines":2,"msg":"lines of this log were lost, because nobody read them: 2"}\nc\nd\n',
      );
    },
  );

  it('tells of lost lines in the layout of the log', () => {
    const pipe = new Pipe();
    Object.assign(pipe, { code: 'EPIPE', room: 0 });
    const write = lineWriter(2, pipe.write, (line) => `<4>${line.length > 0 ? 'lost' : ''}\n`);
    write('<6>a\n');
    pipe.room = Number.POSITIVE_INFINITY;
    write('<6>b\n');
    expect(pipe.text).toBe('<4>lost\n<6>b\n');
  });

  it('waits for a full pipe, once, and then drops', () => {
    const pipe = new Pipe();
    pipe.room = 0;
    const write = lineWriter(2, pipe.write);
    write('a\n');
    expect(pipe.tries).toBeGreaterThan(5);
    pipe.tries = 0;
    write('b\n');
    expect(pipe.tries).toBe(1);
  });

  it('never glues a line to the first half of another, wherever writing stops', () => {
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.nat({ max: 40 }), fc.constantFrom('EPIPE', 'ENOSPC')), { maxLength: 30 }),
        (steps) => {
          const pipe = new Pipe();
          const write = lineWriter(2, pipe.write);
          for (const [index, [room, code]] of steps.entries()) {
            Object.assign(pipe, { room, code });
            write(`<line ${index}>\n`);
          }
          pipe.room = Number.POSITIVE_INFINITY;
          write('<end>\n');
          const lines = pipe.text.split('\n');
          expect(lines.at(-1)).toBe('');
          for (const line of lines.slice(0, -1))
            expect(line).toMatch(/^(<line \d+>|<end>|\{"level".*"lines":\d+,"msg":"[^"]*"\})$/);
          const reported = lines.flatMap((line) =>
            line.startsWith('{') ? [Number(/\d+/.exec(line)?.[0])] : [],
          );
          const written = lines.filter((line) => line.startsWith('<line')).length;
          expect(written + reported.reduce((sum, count) => sum + count, 0)).toBe(steps.length);
        },
      ),
      { numRuns: 500 },
    );
  });
});
