import { expect, it } from 'vitest';
import { StatusLine } from '../../src/cli/status-line.ts';

/** What a terminal shows of what was written, one text a line; erased lines are gone. */
function screen(written: string): readonly string[] {
  return written.split('\n').map((line) => line.split('\r\u001b[2K').at(-1) ?? '');
}

it('stays below what is printed, in one line that fits, and leaves nothing behind', () => {
  let written = '';
  const line = new StatusLine(
    (text) => void (written += text),
    () => 20,
  );
  line.print('first\n');
  expect(screen(written)).toEqual(['first', '']);
  line.show('1 host on v2');
  line.print('second\n');
  expect(screen(written)).toEqual(['first', 'second', '1 host on v2']);
  line.show('2 hosts on v2\nand more than fits');
  expect(screen(written)).toEqual(['first', 'second', '2 hosts on v2 and m']);
  line.end();
  expect(screen(written)).toEqual(['first', 'second', '']);
});

it.each([0, undefined])(
  'takes a terminal that does not tell its width (%s) for one of 80 columns',
  (columns) => {
    let written = '';
    const line = new StatusLine(
      (text) => void (written += text),
      () => columns,
    );
    line.show('x'.repeat(100));
    expect(screen(written)).toEqual(['x'.repeat(79)]);
  },
);
