import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { lineWriter } from '../../src/daemon/host/logger.ts';

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
