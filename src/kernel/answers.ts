import {
  type NetlinkMessage,
  parseAttributes,
  parseMessages,
  readS32,
  readU32,
} from 'netlink/dist/structs.js';
import { errnoName } from '../native/errors.ts';
import { NLM_F, NLMSGERR_ATTR_MSG } from './rtnetlink.ts';

/** Large enough for any datagram of the kernel: dumps come in 32 kB, a link with many virtual functions is larger. */
export const READ_BUFFER_BYTES = 256 << 10;

/** What the kernel answered to one request. */
export interface Answer {
  /** Undefined for success. */
  readonly errno: string | undefined;
  /** The kernel's explanation, when it gave one. */
  readonly message: string | undefined;
}

/** The messages of one datagram; none when it is malformed (then nothing of it can be trusted). */
export function messagesOf(datagram: Buffer): readonly NetlinkMessage[] {
  try {
    return parseMessages(datagram);
  } catch {
    return [];
  }
}

/** Reads an NLMSG_ERROR, which is the acknowledgement too. */
export function decodeAnswer(message: NetlinkMessage): Answer {
  const { data, flags } = message;
  // struct nlmsgerr: the errno, then at least the header of the request.
  if (data.length < 20) return { errno: 'EBADMSG', message: undefined };
  const errno = readS32.call(data, 0);
  if (errno === 0) return { errno: undefined, message: undefined };
  const requestLength = (flags & NLM_F.CAPPED) !== 0 ? 16 : readU32.call(data, 4);
  const attributes = 4 + ((requestLength + 3) & ~3);
  const text = (flags & NLM_F.ACK_TLVS) === 0 ? undefined : explanation(data.subarray(attributes));
  return { errno: errnoName(-errno), message: text };
}

/** Reads an NLMSG_DONE: a dump may have failed half-way, and says so only here. */
export function decodeDone(message: NetlinkMessage): Answer {
  const errno = message.data.length < 4 ? 0 : readS32.call(message.data, 0);
  if (errno >= 0) return { errno: undefined, message: undefined };
  const text = (message.flags & NLM_F.ACK_TLVS) === 0 ? undefined : explanation(message.data.subarray(4));
  return { errno: errnoName(-errno), message: text };
}

function explanation(attributes: Buffer): string | undefined {
  let text: string | undefined;
  try {
    parseAttributes(attributes, ({ type, data }) => {
      if (type === NLMSGERR_ATTR_MSG) text = data.toString('utf8').replace(/\0.*$/, '');
    });
  } catch {
    // The errno still says what happened.
  }
  return text;
}
