import { isIPv4, isIPv6 } from 'node:net';
import { canonicalAddress } from '../../ip/ip.ts';
import { InvalidValue, quote } from './errors.ts';

/** One member of etcd, as the user named it. */
export interface Endpoint {
  /** Normalised: `http://10.0.0.1:2379`, `https://[fc00::1]:2379`; no slash at the end. etcd's client stumbles over less. */
  readonly url: string;
  readonly scheme: 'http' | 'https';
  /** A host name in lower case, or an address; IPv6 without brackets. */
  readonly host: string;
  readonly port: number;
}

const RULE = 'must be a comma list of endpoints like http://10.0.0.1:2379';

/** One element of the list. */
export interface ParsedEndpoint {
  readonly scheme: 'http' | 'https' | undefined;
  readonly host: string;
  readonly port: number;
  /** What follows the authority, and is ignored, when it is more than a slash; the whole element, as given. */
  readonly withPath?: string;
}

/**
 * Parses the value of --etcd-endpoints: a comma list, spaces and empty elements allowed; each `http://host:port`,
 * `https://host:port` or `host:port`, a path after it ignored, IPv6 in brackets. At least one.
 *
 * Throws {@link InvalidValue} that names the endpoint and what is wrong with it.
 */
export function parseEndpoints(text: string): readonly ParsedEndpoint[] {
  // Before anything is quoted: what stands before the @ may be a password.
  if (text.includes('@')) {
    throw new InvalidValue(`${RULE}; an endpoint holds no user name and no password`, '(not shown)');
  }
  const elements = text
    .split(',')
    .map((element) => element.trim())
    .filter((element) => element !== '');
  if (elements.length === 0) throw new InvalidValue(`${RULE}; it names none`);
  return elements.map((element) => parseEndpoint(element, elements.length === 1));
}

/**
 * Gives all endpoints one scheme. As with flanneld the first one's decides, and when it has none `certificate`, whether
 * one was given to show to etcd; `warn` is told about those that say otherwise, and about paths. Duplicates count once.
 */
export function withOneScheme(
  parsed: readonly ParsedEndpoint[],
  certificate: boolean,
  warn: (message: string) => void,
): readonly Endpoint[] {
  const scheme = parsed[0]?.scheme ?? (certificate ? 'https' : 'http');
  const byUrl = new Map<string, Endpoint>();
  for (const { host, port, scheme: own, withPath } of parsed) {
    const authority = `${host.includes(':') ? `[${host}]` : host}:${port}`;
    if (own !== undefined && own !== scheme) {
      warn(
        `etcd endpoint ${own}://${authority} is used with ${scheme}: the first endpoint's scheme decides for all`,
      );
    }
    if (withPath !== undefined)
      warn(`the path of etcd endpoint ${withPath} is ignored: etcd's API is asked at ${authority}`);
    byUrl.set(`${scheme}://${authority}`, { url: `${scheme}://${authority}`, scheme, host, port });
  }
  return [...byUrl.values()];
}

/** `isOnly`: the error names the whole value already. */
function parseEndpoint(element: string, isOnly: boolean): ParsedEndpoint {
  if (/[;|\s]|:\/\/.*:\/\//.test(element))
    throw new InvalidValue(`${RULE}; ${isOnly ? '' : `${quote(element)}: `}separate endpoints with commas`);
  const match = /^(?:([^/:]*):\/\/)?([^/]*)(\/.*)?$/s.exec(element);
  const authority = match?.[2] ?? '';
  if (/[?#]/.test(element)) throw new InvalidValue(`${RULE}; ${quote(element)} has a query or a fragment`);
  const scheme = parseScheme(match?.[1], element);
  const [, ipv6, name, port] = /^(?:\[([^\]]*)\]|([^:[\]]*)):([^:[\]]*)$/.exec(authority) ?? [];
  if (port === undefined) throw new InvalidValue(`${RULE}; ${whyNoHostAndPort(element, authority)}`);
  const host = ipv6 === undefined ? parseHostName(name ?? '', element) : parseIPv6(ipv6, element);
  const path = match?.[3] ?? '/';
  const withPath = path === '/' ? {} : { withPath: quote(element) };
  return { scheme, host, port: parsePort(port, element), ...withPath };
}

function parseScheme(text: string | undefined, element: string): 'http' | 'https' | undefined {
  const scheme = text?.toLowerCase();
  if (scheme === undefined || scheme === 'http' || scheme === 'https') return scheme;
  throw new InvalidValue(`${RULE}; ${quote(element)} has a scheme that is neither http nor https`);
}

function whyNoHostAndPort(element: string, authority: string): string {
  const outside = authority.replace(/^\[[^\]]*\]/, '');
  if (/::|(?::.*){7}/.test(outside))
    return `${quote(element)} has an IPv6 address without brackets: http://[fc00::1]:2379`;
  if (/:.*:/.test(outside)) return `${quote(element)} has more than one port`;
  return `${quote(element)} has no port, etcd's is 2379`;
}

function parseIPv6(text: string, element: string): string {
  // A zone (fe80::1%eth0) names an interface of this host; neither gRPC nor HTTP can carry it in an authority.
  if (!isIPv6(text) || text.includes('%'))
    throw new InvalidValue(`${RULE}; ${quote(element)} has no valid IPv6 address`);
  return canonicalAddress(text) ?? text.toLowerCase();
}

function parseHostName(text: string, element: string): string {
  const labels = text.toLowerCase().replace(/\.$/, '').split('.');
  const valid = text.length <= 253 && labels.every((label) => /^(?!-)[a-z\d_-]{1,63}(?<!-)$/.test(label));
  if (!valid) throw new InvalidValue(`${RULE}; ${quote(element)} has no valid host name`);
  // A name that ends in a number is an address to a resolver, and perhaps not the one that was meant (010.0.0.1).
  if (/^\d+$/.test(labels.at(-1) ?? '') && !isIPv4(text)) {
    throw new InvalidValue(`${RULE}; ${quote(element)} has no valid IPv4 address`);
  }
  return labels.join('.');
}

function parsePort(text: string, element: string): number {
  const port = /^\d{1,5}$/.test(text) ? Number(text) : 0;
  if (port < 1 || port > 65_535)
    throw new InvalidValue(`${RULE}; ${quote(element)} has no port from 1 to 65535`);
  return port;
}
