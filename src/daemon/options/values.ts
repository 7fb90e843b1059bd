import { isIP } from 'node:net';
import { canonicalAddress, type Family, parseAddress } from '../../ip/ip.ts';
import { compileGoRegexp, GoRegexpError } from '../interface/go-regexp.ts';
import { InvalidValue } from './settings.ts';

// The parsers of single values. Each takes the text as given and throws InvalidValue, which says what is allowed.

export function anyText(text: string): string {
  return text;
}

/** A regular expression in Go's syntax, as given; the engine has to be loaded. */
export function goRegexp(text: string): string {
  try {
    compileGoRegexp(text);
    return text;
  } catch (error) {
    if (!(error instanceof GoRegexpError)) throw error;
    throw new InvalidValue(`must be a regular expression in Go's syntax: ${error.message}`);
  }
}

/** Text, or nothing: undefined. */
export function textOrNone(text: string): string | undefined {
  return text === '' ? undefined : text;
}

/** A boolean in the words of Go's strconv.ParseBool. */
export function boolean(text: string): boolean {
  if (/^(1|t|T|true|TRUE|True)$/.test(text)) return true;
  if (/^(0|f|F|false|FALSE|False)$/.test(text)) return false;
  throw new InvalidValue('must be true or false');
}

/** The opposite of the flag's word, for one that switches something off. */
export function not(text: string): boolean {
  return !boolean(text);
}

/**
 * An integer, decimal or as `0x10`; NaN for anything else. Of the literals of Go that flanneld reads too, `1_000` and `010` (8) are
 * refused: nobody is known to write them, and one who writes 010 means ten.
 */
function readInteger(text: string): number {
  const [, sign, digits = ''] = /^([+-]?)(0|[1-9]\d{0,14}|0[xX][\da-fA-F]{1,12})$/.exec(text) ?? [];
  if (digits === '') return Number.NaN;
  return sign === '-' && Number(digits) > 0 ? -Number(digits) : Number(digits);
}

/** A parser for an integer from `lowest` to `highest`; `rule` says so in other words. */
export function integer(
  lowest: number,
  highest: number,
  rule = `must be an integer from ${lowest} to ${highest}`,
): (text: string) => number {
  return (text) => {
    const value = readInteger(text);
    if (value >= lowest && value <= highest) return value;
    throw new InvalidValue(rule);
  };
}

/** A time in whole minutes from `lowest` to `highest`, in ms. */
export function minutes(lowest: number, highest: number): (text: string) => number {
  const parse = integer(lowest, highest);
  return (text) => parse(text) * 60_000;
}

const atLeastOneSecond = integer(1, Number.MAX_SAFE_INTEGER, 'must be a number of seconds, at least 1');

/** A time in whole seconds, as long as one likes, in ms. */
export function seconds(text: string): number {
  return atLeastOneSecond(text) * 1000;
}

/** A TCP port. */
export const port = integer(1, 65_535, 'must be a port from 1 to 65535');

const anyPort = integer(
  Number.MIN_SAFE_INTEGER,
  65_535,
  'must be a port from 1 to 65535, or 0 to switch it off',
);

/** A TCP port; 0 or less switches off, as with flanneld, and is returned as 0. */
export function portOrOff(text: string): number {
  return Math.max(0, anyPort(text));
}

/** klog's verbosity: 32 bits. */
export const verbosity = integer(1 - 2 ** 31, 2 ** 31 - 1, 'must be an integer');

/** A parser for one of some words. */
export function choice<T extends string>(...words: readonly T[]): (text: string) => T {
  return (text) => {
    const found = words.find((word) => word === text);
    if (found === undefined) throw new InvalidValue(`must be one of ${words.join(', ')}`);
    return found;
  };
}

/** An address to listen on. */
export function listenAddress(text: string): string {
  if (isIP(text) === 0) throw new InvalidValue('must be an IP address');
  return text;
}

/** A parser for an address of a family, or of either, in canonical form, or nothing: undefined. */
export function addressOrNone(family?: Family): (text: string) => string | undefined {
  return (text) => {
    if (text === '') return undefined;
    const found = parseAddress(text)?.family;
    if (found === undefined || found !== (family ?? found)) {
      throw new InvalidValue(`must be an ${family === undefined ? 'IP' : `IPv${family}`} address`);
    }
    return canonicalAddress(text);
  };
}

/** The path of a file that will be written. Whether it can be is found out when it is. */
export function filePath(text: string): string {
  if (text === '' || text.includes('\0') || /(?:^|\/)\.{0,2}$/.test(text)) {
    throw new InvalidValue('must be the path of a file');
  }
  return text;
}

/** The path of a file, or nothing: undefined. */
export function filePathOrNone(text: string): string | undefined {
  return text === '' ? undefined : filePath(text);
}

/** The name of a variable of the POSIX shell. */
export function shellVariable(text: string): string {
  if (!/^[A-Za-z_][A-Za-z\d_]*$/.test(text)) {
    throw new InvalidValue(
      'must be the name of a shell variable (letters, digits and underscores, no digit first)',
    );
  }
  return text;
}

/**
 * Protocol numbers that mark other programs' routes (the kernel's rtnetlink.h; 80 is Calico's): with one of those as our
 * mark we would take their routes for ours, and delete them.
 */
const takenProtocols: ReadonlyMap<number, string> = new Map([
  [8, 'gated'],
  [9, 'router advertisements'],
  [10, 'MRT'],
  [11, 'zebra'],
  [12, 'BIRD'],
  [13, 'DECnet'],
  [14, 'XORP'],
  [15, 'Netsukuku'],
  [16, 'DHCP clients'],
  [17, 'multicast daemons'],
  [18, 'keepalived'],
  [42, 'Babel'],
  [80, 'Calico'],
  [84, 'Open/R'],
  [99, 'OVN'],
  [186, 'BGP'],
  [187, 'IS-IS'],
  [188, 'OSPF'],
  [189, 'RIP'],
  [192, 'EIGRP'],
]);

const ourProtocol = integer(
  5,
  255,
  'must be an integer from 5 to 255 (0 to 4 mark the routes of the kernel, boot scripts and the administrator)',
);

/** A protocol number for the own routes. */
export function routeProtocol(text: string): number {
  const number = ourProtocol(text);
  const owner = takenProtocols.get(number);
  if (owner === undefined) return number;
  throw new InvalidValue(
    `must be a number that no other program uses, and ${number} marks the routes of ${owner}`,
  );
}
