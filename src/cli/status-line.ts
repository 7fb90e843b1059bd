import { oneLine } from '../runtime/texts.ts';

/** Erases the line that the cursor is in, and goes to its beginning. */
const erase = '\r\u001b[2K';
/** Where the terminal does not tell its width, as a serial console. */
const usualColumns = 80;

/** A line at the bottom of a terminal that always shows where things stand, below lines that scroll. */
export class StatusLine {
  readonly #write: (text: string) => void;
  readonly #columns: () => number | undefined;
  #text = '';

  /** `columns`: how wide the terminal is now; 0 or undefined where it does not tell. */
  constructor(write: (text: string) => void, columns: () => number | undefined) {
    this.#write = write;
    this.#columns = columns;
  }

  show(text: string): void {
    // A line that is wider would scroll.
    this.#text = oneLine(text).slice(0, (this.#columns() || usualColumns) - 1);
    this.#write(erase + this.#text);
  }

  /** Prints a whole line, its newline included, above. */
  print(line: string): void {
    this.#write(erase + line + this.#text);
  }

  /** Leaves the terminal with an empty line. */
  end(): void {
    this.#text = '';
    this.#write(erase);
  }
}
