/** Orders texts as their UTF-8 bytes, which is etcd's order: UTF-16 puts surrogates before U+E000..U+FFFF, UTF-8 after. */
export function compareBytes(a: string, b: string): number {
  const length = Math.min(a.length, b.length);
  for (let index = 0; index < length; index++) {
    const left = a.charCodeAt(index);
    const right = b.charCodeAt(index);
    if (left !== right) return rank(left) - rank(right);
  }
  return a.length - b.length;
}

function rank(unit: number): number {
  if (unit < 0xd800) return unit;
  return unit < 0xe000 ? unit + 0x2000 : unit - 0x800;
}

/** Whether `key` is `start`, or with an end in [start, end); the end `\0` means no end. */
export function inRange(key: string, start: string, end: string | undefined): boolean {
  if (end === undefined) return key === start;
  return compareBytes(key, start) >= 0 && (end === '\0' || compareBytes(key, end) < 0);
}

/** A map whose keys are in byte order. */
export class SortedKeys<T> {
  readonly #map: Map<string, T>;
  readonly #order: string[];

  constructor(entries: ReadonlyMap<string, T> = new Map()) {
    this.#map = new Map(entries);
    this.#order = [...entries.keys()].toSorted(compareBytes);
  }

  get(key: string): T | undefined {
    return this.#map.get(key);
  }

  set(key: string, value: T): void {
    if (!this.#map.has(key)) this.#order.splice(this.#indexOf(key), 0, key);
    this.#map.set(key, value);
  }

  delete(key: string): void {
    if (this.#map.delete(key)) this.#order.splice(this.#indexOf(key), 1);
  }

  /** The values of [start, end), or of `start` alone. */
  range(start: string, end: string | undefined): readonly T[] {
    if (end === undefined) {
      const value = this.#map.get(start);
      return value === undefined ? [] : [value];
    }
    const [from, to] = [this.#indexOf(start), end === '\0' ? this.#order.length : this.#indexOf(end)];
    return this.#order.slice(from, to).flatMap((key) => this.#map.get(key) ?? []);
  }

  *values(): Generator<T> {
    for (const key of this.#order) {
      const value = this.#map.get(key);
      if (value !== undefined) yield value;
    }
  }

  toMap(): ReadonlyMap<string, T> {
    return new Map(this.#map);
  }

  /** Where `key` is, or would be. */
  #indexOf(key: string): number {
    let low = 0;
    let high = this.#order.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (compareBytes(this.#order[middle] ?? '', key) < 0) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}
