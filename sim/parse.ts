import * as ip from '../src/ip/ip.ts';

const most = 10_000;

/** Parsing IPv6 costs more than all that is done here with an address, and a world has few. */
function remembered<T>(parse: (text: string) => T): (text: string) => T {
  const known = new Map<string, T>();
  return (text) => {
    const found = known.get(text);
    if (found !== undefined) return found;
    const parsed = parse(text);
    if (known.size < most) known.set(text, parsed);
    return parsed;
  };
}

/** As in src/ip, remembered. */
export const parseAddress = remembered(ip.parseAddress);
/** As in src/ip, remembered. */
export const parseSubnet = remembered(ip.parseSubnet);
