import { isIPv4, isIPv6 } from 'node:net';
import { canonicalAddress } from '../../ip/ip.ts';
import { InvalidValue } from './settings.ts';

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
  /** Whether something follows the authority, and is ignored, that is more than a slash. */
  readonly hasPath: boolean;
}

/**
 * Parses the value of --etcd-endpoints: a comma list, spaces and empty elements allowed; each `http://host:port`,
 * `https://host:port` or `host:port`, a path after it ignored, IPv6 in brackets. At least one.
 *
 * Throws {@link InvalidValue} that says which endpoint is wrong, by its place in the list, and what is wrong with it.
 */
export function parseEndpoints(text: string): readonly ParsedEndpoint[] {
  if (text.includes('@')) throw new InvalidValue(`${RULE}; an endpoint holds no user name and no password`);
  const elements = text
    .split(',')
    .map((element) => element.trim())
    .filter((element) => element !== '');
  if (elements.length === 0) throw new InvalidValue(`${RULE}; it names none`);
  return elements.map((element, index) => {
    const wrong = whatIsWrong(element);
    if (typeof wrong !== 'string') return wrong;
    throw new InvalidValue(`${RULE}; ${elements.length === 1 ? 'it' : `number ${index + 1}`} ${wrong}`);
  });
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
  for (const { host, port, scheme: own, hasPath } of parsed) {
    const authority = `${host.includes(':') ? `[${host}]` : host}:${port}`;
    if (own !== undefined && own !== scheme) {
      warn(
        `etcd endpoint ${own}://${authority} is used with ${scheme}: the first endpoint's scheme decides for all`,
      );
    }
    if (hasPath) warn(`the path behind etcd endpoint ${authority} is ignored: etcd's API has none`);
    byUrl.set(`${scheme}://${authority}`, { url: `${scheme}://${authority}`, scheme, host, port });
  }
  return [...byUrl.values()];
}

/** The endpoint, or in words what is wrong with it: "has no port". */
function whatIsWrong(element: string): ParsedEndpoint | string {
  if (/[;|\s]|:\/\/.*:\/\//.test(element)) return 'is more than one: separate endpoints with commas';
  if (/[?#]/.test(element)) return 'has a query or a fragment';
  const [, schemeText, authority = '', path = '/'] =
    /^(?:([^/:]*):\/\/)?([^/]*)(\/.*)?$/s.exec(element) ?? [];
  const scheme = schemeText?.toLowerCase();
  if (scheme !== undefined && scheme !== 'http' && scheme !== 'https')
    return 'has a scheme that is neither http nor https';
  const [, ipv6, name = '', portText] = /^(?:\[([^\]]*)\]|([^:[\]]*)):([^:[\]]*)$/.exec(authority) ?? [];
  if (portText === undefined) return whyNoHostAndPort(authority);
  // A zone (fe80::1%eth0) names an interface of this host; neither gRPC nor HTTP can carry it in an authority.
  if (ipv6 !== undefined && (!isIPv6(ipv6) || ipv6.includes('%'))) return 'has no valid IPv6 address';
  const host = ipv6 === undefined ? hostName(name) : { host: canonicalAddress(ipv6) ?? ipv6.toLowerCase() };
  if (typeof host === 'string') return host;
  const port = /^\d{1,5}$/.test(portText) ? Number(portText) : 0;
  if (port < 1 || port > 65_535) return 'has no port from 1 to 65535';
  return { scheme, ...host, port, hasPath: path !== '/' };
}

function whyNoHostAndPort(authority: string): string {
  const outside = authority.replace(/^\[[^\]]*\]/, '');
  if (/::|(?::.*){7}/.test(outside)) return 'has an IPv6 address without brackets: http://[fc00::1]:2379';
  if (/:.*:/.test(outside)) return 'has more than one port';
  return "has no port, etcd's is 2379";
}

function hostName(text: string): { readonly host: string } | string {
  const labels = text.toLowerCase().replace(/\.$/, '').split('.');
  const valid = text.length <= 253 && labels.every((label) => /^(?!-)[a-z\d_-]{1,63}(?<!-)$/.test(label));
  if (!valid) return 'has no valid host name';
  // A name that ends in a number is an address to a resolver, and perhaps not the one that was meant (010.0.0.1).
  if (/^\d+$/.test(labels.at(-1) ?? '') && !isIPv4(text)) return 'has no valid IPv4 address';
  return { host: labels.join('.') };
}
