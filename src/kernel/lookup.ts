import { parseAttributes, readU32 } from 'netlink/dist/structs.js';
import { decodeUsedRoute } from './decode.ts';
import type { DumpSocket } from './dump-socket.ts';
import { encodeLookup, encodeMatch } from './encode.ts';
import { KernelError, type PolicyRule, type RouteLookup, type Sender, type UsedRoute } from './kernel.ts';
import { addressText, familyOf, RTM, RTN } from './rtnetlink.ts';

/** struct rtmsg. */
const HEADER_BYTES = 12;
/**
 * Answers that mean that nothing is sent to that address: no route, an `unreachable`, `prohibit`, `blackhole` or `throw`
 * one, a family that is off.
 */
const nowhere = new Set([
  'ENETUNREACH',
  'EHOSTUNREACH',
  'EACCES',
  'EINVAL',
  'EAGAIN',
  'EOPNOTSUPP',
  'EAFNOSUPPORT',
]);

/** See Kernel.routeTo. */
export function lookUpRoute(
  socket: DumpSocket,
  address: string,
  signal: AbortSignal | undefined,
): Promise<RouteLookup | undefined> {
  const encode = (sequence: number) => encodeLookup(address, sequence);
  return ask(socket, { address, encode, decode: decodeLookup }, signal);
}

/** See RouteFinder.routeFor. */
export function findRoute(
  socket: DumpSocket,
  { address, sender }: { readonly address: string; readonly sender: Sender | undefined },
  signal: AbortSignal | undefined,
): Promise<UsedRoute | undefined> {
  const encode = (sequence: number) => encodeMatch(address, sequence, sender);
  return ask(socket, { address, encode, decode: decodeUsedRoute }, signal);
}

async function ask<T>(
  socket: DumpSocket,
  question: {
    readonly address: string;
    readonly encode: (sequence: number) => Buffer | undefined;
    readonly decode: (payload: Buffer) => T | undefined;
  },
  signal: AbortSignal | undefined,
): Promise<T | undefined> {
  const { address, decode } = question;
  if (question.encode(0) === undefined) throw new KernelError('EINVAL', `not an address: ${address}`);
  const encode = (sequence: number) => question.encode(sequence) ?? Buffer.alloc(0);
  const request = { what: `route to ${address}`, encode, type: RTM.NEWROUTE, decode };
  try {
    const [found] = await socket.dump(request, signal);
    return found;
  } catch (error) {
    if (error instanceof KernelError && nowhere.has(error.errno)) return undefined;
    throw error;
  }
}

/** The answer of a lookup; undefined when it leads nowhere. Never throws. */
function decodeLookup(payload: Buffer): RouteLookup | undefined {
  if (payload.length < HEADER_BYTES) return undefined;
  let linkIndex: number | undefined;
  let source: string | undefined;
  try {
    parseAttributes(payload.subarray(HEADER_BYTES), ({ type, data }) => {
      if (type === 4) linkIndex = readU32.call(data, 0);
      else if (type === 7) source = addressText(data);
    });
  } catch {
    return undefined;
  }
  if (linkIndex === undefined) return undefined;
  const rtnType = payload[7];
  const type = rtnType === RTN.UNICAST ? 'unicast' : rtnType === RTN.LOCAL ? 'local' : 'other';
  return { type, linkIndex, ...(source === undefined ? {} : { source }) };
}

/** Action of struct fib_rule_hdr: look into a table. */
const FR_ACT_TO_TBL = 1;
const FIB_RULE_INVERT = 2;
/** FRA_* of linux/fib_rules.h that say nothing about which packets a rule is for. */
const plainAttributes = new Set([13, 14, 18, 21]); // suppress_ifgroup, suppress_prefixlen, padding, protocol

/** A policy rule; undefined for other families. Never throws: what it does not understand makes the rule `conditional`. */
export function decodeRule(payload: Buffer): PolicyRule | undefined {
  const family = familyOf(payload[0] ?? 0);
  if (family === undefined || payload.length < HEADER_BYTES) return undefined;
  const [, toLength, fromLength, tos, tableByte = 0, , , action] = payload;
  let priority = 0;
  let table = tableByte;
  let to: string | undefined;
  let from: string | undefined;
  let conditional = tos !== 0 || (readU32.call(payload, 8) & FIB_RULE_INVERT) !== 0;
  try {
    parseAttributes(payload.subarray(HEADER_BYTES), ({ type, data }) => {
      if (type === 1) to = `${addressText(data)}/${toLength}`;
      else if (type === 2) from = `${addressText(data)}/${fromLength}`;
      else if (type === 6) priority = readU32.call(data, 0);
      else if (type === 15) table = readU32.call(data, 0);
      else if (!plainAttributes.has(type)) conditional = true;
    });
  } catch {
    conditional = true;
  }
  return {
    priority,
    ...(from === undefined ? {} : { from }),
    ...(to === undefined ? {} : { to }),
    ...(action === FR_ACT_TO_TBL ? { table } : {}),
    conditional,
  };
}
