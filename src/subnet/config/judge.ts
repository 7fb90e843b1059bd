import { excerpt } from '../../runtime/texts.ts';
import { type NetworkConfig, readNetworkConfig } from './config.ts';
import { foldKey, type JsonField, jsonFields } from './json.ts';
import { mendJson } from './mend.ts';

/** Something about a text that an operator gives, and where it stands. */
export interface Remark {
  readonly text: string;
  /** Line and column, from 1 on; absent where a key is missing, or the text as a whole is meant. */
  readonly place?: { readonly line: number; readonly column: number };
}

export interface ConfigFault extends Remark {
  /** As of NetworkConfigError. */
  readonly code: string;
  readonly key: string;
  readonly remedy: string;
}

/** What the daemon makes of a text, and flanneld. */
export interface Judgement {
  /** As it would be stored: without a byte order mark, and without blanks around it. */
  readonly text: string;
  /** Absent when there is a fault. */
  readonly config?: NetworkConfig;
  /** By place. */
  readonly faults: readonly ConfigFault[];
  readonly warnings: readonly Remark[];
  readonly flanneld: FlanneldView;
}

export interface FlanneldView {
  /** Whether flanneld works with it. */
  readonly accepts: boolean;
  /** Where it does otherwise than this program, one sentence each. */
  readonly notes: readonly string[];
}

const bom = '\ufeff';
const bomFault: ConfigFault = {
  code: 'CONFIG_SYNTAX',
  key: '',
  text: 'it begins with a byte order mark (BOM)',
  remedy: 'Store it without: flanneld-ts config edit.',
  place: { line: 1, column: 1 },
};

/**
 * Judges a text by the daemon's own rules and finds all faults at once: those of syntax as far as the rest can
 * still be read, and those of its values. A byte order mark before a text that somebody gives, as some editors
 * write one, is none: it is not stored. In etcd it is one.
 */
export function judgeConfig(given: string, { isStored = false } = {}): Judgement {
  const hasBom = given.startsWith(bom);
  const text = hasBom ? given.slice(1) : given;
  const syntax = mendJson(text);
  const read = syntax.text === undefined ? { faults: [], warnings: [] } : readNetworkConfig(syntax.text);
  const places = new Places(
    text,
    read.faults.some(({ code }) => code === 'CONFIG_SYNTAX') ? '' : syntax.text,
  );
  const ofSyntax = syntax.faults.map(({ problem, remedy = 'Correct the text.', at }): ConfigFault => {
    const advice = text.trim() === '' ? example : remedy;
    return { code: 'CONFIG_SYNTAX', key: '', text: problem, remedy: advice, ...places.at(at) };
  });
  const ofValues = read.faults.map(({ code, key, message, remedy = '' }): ConfigFault => {
    return { code, key, text: message, remedy, ...places.of(key) };
  });
  const inEtcd = hasBom && isStored ? [bomFault] : [];
  const faults = [...inEtcd, ...ofSyntax, ...ofValues].toSorted(byPlace);
  const warnings = read.warnings.map(({ key, text: said }) => ({
    text: said,
    ...(key !== undefined && places.of(key, 'key')),
  }));
  const config = faults.length === 0 && 'config' in read ? read.config : undefined;
  const flanneld = flanneldView(hasBom, faults, [
    ...(read.warnings.some(({ text: said }) => said.startsWith('unknown key'))
      ? ['It ignores unknown keys without a word.']
      : []),
    ...(config?.ipv6 && config.ipv4
      ? ['A flanneld without IPv6 crashes at the first lease with both families: replace all of them first.']
      : []),
  ]);
  return { text: text.trim(), ...(config && { config }), faults, warnings, flanneld };
}

const example = 'Write e.g. {"Network":"10.5.0.0/16","Backend":{"Type":"host-gw"}}.';

function byPlace(a: Remark, b: Remark): number {
  const last = { line: Number.MAX_SAFE_INTEGER, column: 0 };
  const [{ line, column }, other] = [a.place ?? last, b.place ?? last];
  return line - other.line || column - other.column;
}

/** Finds lines and columns in a text. */
class Places {
  readonly #text: string;
  readonly #fields: readonly JsonField[];

  /** `json`: the text, mended; empty or undefined where it is no object. */
  constructor(text: string, json: string | undefined) {
    this.#text = text;
    this.#fields = json === undefined || json === '' ? [] : jsonFields(json);
  }

  at(offset: number | undefined): Pick<Remark, 'place'> {
    if (offset === undefined) return {};
    const before = this.#text.slice(0, offset).split('\n');
    return { place: { line: before.length, column: (before.at(-1) ?? '').length + 1 } };
  }

  /** Where the value of a key stands, or the key itself; of several the last, which counts. */
  of(key: string, what: 'key' | 'value' = 'value'): Pick<Remark, 'place'> {
    const [first = '', second] = key.split('.');
    const field = lastOf(this.#fields, first);
    if (field === undefined) return {};
    const inner =
      second === undefined || !field.raw.startsWith('{') ? undefined : lastOf(jsonFields(field.raw), second);
    if (what === 'key') return this.at(field.keyAt);
    return this.at(inner === undefined ? field.at : field.at + inner.at);
  }
}

function lastOf(fields: readonly JsonField[], key: string): JsonField | undefined {
  const named = fields.filter((field) => foldKey(field.key) === foldKey(key));
  return named.findLast(({ raw }) => raw !== 'null') ?? named.at(-1);
}

/** flanneld's backends that are no host-gw; it ends at any other name. */
const otherBackends = [
  'udp',
  'vxlan',
  'wireguard',
  'ipip',
  'ipsec',
  'alloc',
  'extension',
  'tencent-vpc',
  'ali-vpc',
  'aws-vpc',
  'gce',
];

/**
 * What flanneld (v0.28) does with it. Its rules for values are the same, but for the order of the bounds and the
 * backend. `differences`: what it does otherwise with a text that it accepts.
 */
function flanneldView(
  hasBom: boolean,
  faults: readonly ConfigFault[],
  differences: readonly string[],
): FlanneldView {
  const lenient = faults.map(leniency).filter((note) => note !== undefined);
  if (lenient.length < faults.length) return { accepts: false, notes: [] };
  const notes = [...lenient, ...differences];
  const refusal = 'It refuses a text that begins with a byte order mark (BOM). config set stores it without.';
  return hasBom ? { accepts: false, notes: [refusal, ...notes] } : { accepts: true, notes };
}

/** What flanneld does where this program refuses; undefined when it refuses, too. */
function leniency({ code, key, text }: ConfigFault): string | undefined {
  if (code === 'CONFIG_ORDER') {
    return 'It accepts bounds in the wrong order; then its hosts get no subnet, and it says "out of subnets".';
  }
  if (code !== 'CONFIG_BACKEND') return undefined;
  if (key === 'Backend') return 'Without Backend it uses udp, a tunnel, and adds no routes between hosts.';
  const type = /is "([\w-]+)"/.exec(text)?.[1]?.toLowerCase();
  if (type === undefined || !otherBackends.includes(type)) return undefined;
  return `It would use the backend ${excerpt(type, 40)}. Its leases get no routes from hosts with host-gw.`;
}
