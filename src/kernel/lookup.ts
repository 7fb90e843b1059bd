import { parseAttributes, readU32 } from 'netlink/dist/structs.js';
import { addressText } from './addresses.ts';
import type { DumpSocket } from './dump-socket.ts';
import { encodeLookup } from './encode.ts';
import { KernelError } from './errors.ts';
import type { RouteLookup } from './kernel.ts';
import { RTM, RTN } from './rtnetlink.ts';

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
export async function lookUpRoute(
  socket: DumpSocket,
  address: string,
  signal: AbortSignal | undefined,
): Promise<RouteLookup | undefined> {
  if (encodeLookup(address, 0) === undefined) throw new KernelError('EINVAL', `not an address: ${address}`);
  const encode = (sequence: number) => encodeLookup(address, sequence) ?? Buffer.alloc(0);
  const request = { what: `route to ${address}`, encode, type: RTM.NEWROUTE, decode: decodeLookup };
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
