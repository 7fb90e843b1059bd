import { type Assertion, type CharacterTest, GoRegexpError, type Node } from './syntax.ts';

/** One step of a match; numbers are places in the program. */
type Step =
  | { readonly op: 'set'; readonly has: CharacterTest; readonly next: number }
  | { readonly op: 'assertion'; readonly what: Assertion; readonly next: number }
  | { readonly op: 'split'; a: number; readonly b: number }
  | { readonly op: 'match' };

/** Far beyond what an interface is ever chosen by; each step is looked at once per character. */
const mostSteps = 100_000;

/**
 * Steps through which all matches are followed at once, as Go does it: time grows with the length of the text times that
 * of the pattern, never beyond. JavaScript's own engine tries one way after the other, and `([0-9a-f:]+)+x` would keep it
 * busy for hours on one IPv6 address.
 */
export class Program {
  readonly #steps: Step[] = [{ op: 'match' }];
  readonly #start: number;
  readonly #source: string;

  /** Throws {@link GoRegexpError} when the pattern written out is too long. */
  constructor(node: Node, source: string) {
    this.#source = source;
    this.#start = this.#emit(node, 0);
  }

  /** Whether the text has a match anywhere. */
  matches(text: string): boolean {
    const characters = Array.from(text);
    let places: readonly number[] = [];
    for (let at = 0; at <= characters.length; at++) {
      const reached = this.#reach([...places, this.#start], {
        before: characters[at - 1],
        after: characters[at],
      });
      if (reached === 'match') return true;
      const character = characters[at];
      if (character === undefined) return false;
      places = reached.flatMap((step) => (step.has(character) ? [step.next] : []));
    }
    return false;
  }

  /** The sets that can take the next character, from these places on. */
  #reach(places: readonly number[], around: Around): readonly Extract<Step, { op: 'set' }>[] | 'match' {
    const seen = new Set<number>();
    const sets: Extract<Step, { op: 'set' }>[] = [];
    const stack = [...places];
    for (let place = stack.pop(); place !== undefined; place = stack.pop()) {
      const step = this.#steps[place];
      if (step === undefined || seen.has(place)) continue;
      seen.add(place);
      if (step.op === 'match') return 'match';
      if (step.op === 'set') sets.push(step);
      else if (step.op === 'split') stack.push(step.a, step.b);
      else if (holds(step.what, around)) stack.push(step.next);
    }
    return sets;
  }

  /** Writes the steps of a node that go on at `next`; returns where they begin. */
  #emit(node: Node, next: number): number {
    switch (node.kind) {
      case 'set':
        return this.#add({ op: 'set', has: node.has, next });
      case 'assertion':
        return this.#add({ op: 'assertion', what: node.what, next });
      case 'sequence':
        return node.parts.reduceRight((after, part) => this.#emit(part, after), next);
      case 'choice':
        return node.options
          .map((option) => this.#emit(option, next))
          .reduce((b, a) => this.#add({ op: 'split', a, b }));
      case 'repeat':
        return this.#emitRepeat(node, next);
    }
  }

  #emitRepeat({ node, min, max }: Extract<Node, { kind: 'repeat' }>, next: number): number {
    let start = next;
    if (Number.isFinite(max)) {
      for (let i = min; i < max; i++) start = this.#add({ op: 'split', a: this.#emit(node, start), b: next });
    } else {
      const loop: Step = { op: 'split', a: next, b: next };
      start = this.#add(loop);
      loop.a = this.#emit(node, start);
    }
    for (let i = 0; i < min; i++) start = this.#emit(node, start);
    return start;
  }

  #add(step: Step): number {
    if (this.#steps.length >= mostSteps) throw new GoRegexpError('expression too large', this.#source);
    return this.#steps.push(step) - 1;
  }
}

/** The characters on both sides of a place. */
interface Around {
  readonly before: string | undefined;
  readonly after: string | undefined;
}

function holds(what: Assertion, { before, after }: Around): boolean {
  const boundary = isWord(before) !== isWord(after);
  switch (what) {
    case 'text-start':
      return before === undefined;
    case 'text-end':
      return after === undefined;
    case 'line-start':
      return before === undefined || before === '\n';
    case 'line-end':
      return after === undefined || after === '\n';
    case 'word-boundary':
      return boundary;
    case 'no-word-boundary':
      return !boundary;
  }
}

function isWord(character: string | undefined): boolean {
  return character !== undefined && /^\w$/.test(character);
}
