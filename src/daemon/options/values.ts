import { isIP } from 'node:net';
import { canonicalAddress, type Family, parseAddress } from '../../ip/ip.ts';
import { compileGoRegexp, GoRegexpError } from '../interface/go-regexp.ts';
import { parseGoBoolean, parseInteger } from './command-line.ts';
import { InvalidValue } from './errors.ts';

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

export function boolean(text: string): boolean {
  const value = parseGoBoolean(text);
  if (value === undefined) throw new InvalidValue('must be true or false');
  return value;
}

/** A parser for an integer from `lowest` to `highest`; `why` explains the range. */
export function integer(lowest: number, highest: number, why = ''): (text: string) => number {
  return (text) => {
    const value = parseInteger(text);
    if (value === undefined || value < lowest || value > highest) {
      throw new InvalidValue(`must be an integer from ${lowest} to ${highest}${why}`);
    }
    return value;
  };
}

/** A time in whole seconds, as long as one likes. */
export function seconds(text: string): number {
  const value = parseInteger(text);
  if (value === undefined || value < 1) throw new InvalidValue('must be a number of seconds, at least 1');
  return value;
}

/** A TCP port; 0 or less switches off, as with flanneld, and is returned as 0. */
export function portOrOff(text: string): number {
  const value = parseInteger(text);
  if (value === undefined || value > 65_535) {
    throw new InvalidValue('must be a port from 1 to 65535, or 0 to switch it off');
  }
  return Math.max(0, value);
}

/** A TCP port. */
export function port(text: string): number {
  const value = parseInteger(text);
  if (value === undefined || value < 1 || value > 65_535)
    throw new InvalidValue('must be a port from 1 to 65535');
  return value;
}

/** klog's verbosity: 32 bits. */
export function verbosity(text: string): number {
  const value = parseInteger(text);
  if (value === undefined || Math.abs(value) > 2 ** 31 - 1) throw new InvalidValue('must be an integer');
  return value;
}

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
