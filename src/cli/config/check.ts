import { aligned, counted, excerpt } from '../../runtime/texts.ts';
import type { NetworkConfig } from '../../subnet/config/config.ts';
import { foldKey, jsonFields } from '../../subnet/config/json.ts';
import { type ConfigFault, type Judgement, judgeConfig, type Remark } from '../../subnet/config/judge.ts';
import { configParts } from '../../subnet/config/watch.ts';
import { type ExitCode, type Output, paint, printJson, wrapped } from '../output.ts';

/** A text of an operator's, and what it is called in messages: a path, or `standard input`. */
export interface GivenText {
  readonly name: string;
  readonly text: string;
}

/**
 * `config validate`: says all that is wrong with a text, and what flanneld would make of it. Asks nobody.
 * Returns the exit code: 0 when the daemon accepts it, else 1.
 */
export function checkConfig(output: Output, { name, text }: GivenText): ExitCode {
  const judgement = judgeConfig(text);
  if (output.json) {
    const { config, faults, warnings, flanneld } = judgement;
    const values = config === undefined ? [] : valuesOf(text, config);
    printJson(output, { valid: config !== undefined, faults, warnings, flanneld, values });
  } else {
    for (const line of judgementLines(output, name, judgement)) output.out(line);
    if (judgement.config !== undefined)
      for (const line of valueLines(output, judgement.text, judgement.config)) output.out(line);
  }
  return judgement.config === undefined ? 1 : 0;
}

/** The verdict on a text for people: its faults, warnings, and flanneld's view. */
export function judgementLines(
  output: Output,
  name: string,
  { config, faults, warnings, flanneld }: Judgement,
): readonly string[] {
  const verdict =
    config === undefined
      ? paint(output, 'red', counted(faults.length, 'fault'))
      : paint(output, 'green', 'valid');
  return [
    `${excerpt(name)}: ${verdict}`,
    ...faults.flatMap((fault) => remarkLines(fault, faultText(fault))),
    ...(warnings.length === 0 ? [] : ['warnings:']),
    ...warnings.flatMap((warning) => remarkLines(warning, warning.text)),
    `flanneld ${flanneldWords[`${config !== undefined}`][`${flanneld.accepts}`]}`,
    ...flanneld.notes.flatMap((note) => wrapped(`  ${note}`, 2)),
  ];
}

/** By whether this program accepts a text, and whether flanneld does. */
const flanneldWords = {
  true: { true: 'accepts it, too', false: 'refuses it as it is' },
  false: { true: 'accepts it all the same', false: 'refuses it, too' },
} as const;

function faultText({ text, remedy }: ConfigFault): string {
  return `${text}. ${remedy}`;
}

function remarkLines({ place }: Remark, text: string): readonly string[] {
  const where = place === undefined ? '' : `line ${place.line}, column ${place.column}: `;
  return wrapped(`  ${where}${text}`, 4);
}

/** A value that counts, and whether the configuration gives it or it is the default. */
export interface EffectiveValue {
  readonly key: string;
  readonly value: string;
  readonly given: boolean;
}

/** The values that count, with defaults, in the order of README; keys of a family that is off are left out. */
export function valuesOf(text: string, config: NetworkConfig): readonly EffectiveValue[] {
  const given = givenKeys(text);
  return [...configParts(config), ['Backend.Type', 'host-gw'] as const].map(([key, value]) => ({
    key,
    value,
    given: given.has(foldKey(key.split('.', 1)[0] ?? '')),
  }));
}

/** As flannel reads them, these stand for the default. */
const absent = new Set(['null', '0', '"0.0.0.0"', '"::"']);

function givenKeys(text: string): ReadonlySet<string> {
  const fields = jsonFields(text.replace(/^\ufeff/, ''));
  return new Set(fields.filter(({ raw }) => !absent.has(raw)).map(({ key }) => foldKey(key)));
}

/** The values as a table. */
export function valueLines(output: Output, text: string, config: NetworkConfig): readonly string[] {
  const rows = valuesOf(text, config).map(({ key, value, given }) => [
    key,
    value,
    given ? 'given' : 'default',
  ]);
  const [head = '', ...lines] = aligned([['KEY', 'VALUE', 'FROM'], ...rows]);
  return ['', paint(output, 'bold', head), ...lines];
}
