import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { NetworkConfigError, parseNetworkConfig } from '../../src/subnet/config/config.ts';
import { expectPoolInvariants, failure, ipv4Pool, ipv6Pool, withBackend } from './config-helpers.ts';

const network = '"Network":"10.5.0.0/16"';

describe('the defaults', () => {
  it('leave nftables off, and warn of nothing', () => {
    expect(parseNetworkConfig(withBackend('"Network":"10.5.0.0/16"'))).toMatchObject({
      enableNFTables: false,
      warnings: [],
    });
  });

  // Values as flannel v0.28.9 computes them.
  it.each([
    ['"Network":"10.5.0.0/16"', '10.5.0.0/16: /24 from 10.5.1.0/24 to 10.5.255.0/24'],
    [
      '"Network":"10.5.0.0/16","SubnetMin":"10.5.0.0","SubnetMax":"10.5.0.0"',
      '10.5.0.0/16: /24 from 10.5.0.0/24 to 10.5.0.0/24',
    ],
    ['"Network":"10.5.0.0/22"', '10.5.0.0/22: /24 from 10.5.1.0/24 to 10.5.3.0/24'],
    ['"Network":"10.5.0.0/23"', '10.5.0.0/23: /25 from 10.5.0.128/25 to 10.5.1.128/25'],
    ['"Network":"10.5.0.0/28"', '10.5.0.0/28: /30 from 10.5.0.4/30 to 10.5.0.12/30'],
    ['"Network":"10.0.0.0/8","SubnetLen":0', '10.0.0.0/8: /24 from 10.0.1.0/24 to 10.255.255.0/24'],
    ['"Network":"255.255.0.0/16"', '255.255.0.0/16: /24 from 255.255.1.0/24 to 255.255.255.0/24'],
    ['"Network":"10.5.0.0/16","SubnetMin":"0.0.0.0"', '10.5.0.0/16: /24 from 10.5.1.0/24 to 10.5.255.0/24'],
    ['"Network":"10.5.0.0/16","SubnetMax":"0.0.0.0"', '10.5.0.0/16: /24 from 10.5.1.0/24 to 10.5.255.0/24'],
    ['"Network":"10.5.0.0/16","SubnetLen":30', '10.5.0.0/16: /30 from 10.5.0.4/30 to 10.5.255.252/30'],
  ])('%s', (members, pool) => {
    expect(ipv4Pool(members)).toBe(pool);
  });
});

describe('IPv6', () => {
  it.each([
    ['"IPv6Network":"fc00:5::/48"', 'fc00:5::/48: /64 from fc00:5:0:1::/64 to fc00:5:0:ffff::/64'],
    ['"IPv6Network":"fc00::/62"', 'fc00::/62: /64 from fc00:0:0:1::/64 to fc00:0:0:3::/64'],
    ['"IPv6Network":"fc00::/63"', 'fc00::/63: /65 from fc00::8000:0:0:0/65 to fc00:0:0:1:8000::/65'],
    ['"IPv6Network":"fc00::/124"', 'fc00::/124: /126 from fc00::4/126 to fc00::c/126'],
    [
      '"IPv6Network":"fc00::/48","IPv6SubnetMin":"::"',
      'fc00::/48: /64 from fc00:0:0:1::/64 to fc00:0:0:ffff::/64',
    ],
    [
      '"IPv6Network":"FC00:0:0::/48","IPv6SubnetMin":"fc00::","IPv6SubnetMax":"fc00:0:0:a::","IPv6SubnetLen":64',
      'fc00::/48: /64 from fc00::/64 to fc00:0:0:a::/64',
    ],
  ])('%s', (members, pool) => {
    expect(ipv6Pool(`"EnableIPv4":false,"EnableIPv6":true,${members}`)).toBe(pool);
  });

  it('comes beside IPv4, and IPv4 can be off without a Network', () => {
    const networksOf = (members: string) => {
      const { ipv4, ipv6 } = parseNetworkConfig(withBackend(members));
      return [ipv4?.network.text, ipv6?.network.text];
    };
    const ipv6 = '"EnableIPv6":true,"IPv6Network":"fc00::/48"';
    expect(networksOf(`${network},${ipv6}`)).toEqual(['10.5.0.0/16', 'fc00::/48']);
    expect(networksOf(`"EnableIPv4":false,${ipv6}`)).toEqual([undefined, 'fc00::/48']);
    // It stays off while EnableIPv6 is not true, whatever its network.
    expect(networksOf(`${network},"IPv6Network":"fc00::/127"`)).toEqual(['10.5.0.0/16', undefined]);
  });
});

describe('a configuration that cannot be used', () => {
  const dual = `${network},"EnableIPv6":true`;
  it.each([
    ['', 'CONFIG_MISSING', 'Network', 'required'],
    ['"Network":"0.0.0.0/0"', 'CONFIG_RANGE', 'Network'],
    ['"Network":"010.5.0.0/16"', 'CONFIG_TYPE', 'Network'],
    ['"Network":"10.5.0.0"', 'CONFIG_TYPE', 'Network', 'address/length'],
    ['"Network":"fc00::/48"', 'CONFIG_TYPE', 'Network', 'IPv4'],
    ['"Network":10', 'CONFIG_TYPE', 'Network', 'in quotes'],
    ['"Network":"10.5.0.0/29"', 'CONFIG_LENGTH', 'Network', '/28'],
    [`${network},"SubnetLen":31`, 'CONFIG_LENGTH', 'SubnetLen', 'at most 30'],
    [`${network},"SubnetLen":17`, 'CONFIG_LENGTH', 'SubnetLen', 'at least 18'],
    [`${network},"SubnetLen":99999999999999999999`, 'CONFIG_LENGTH', 'SubnetLen'],
    ...['"24"', '24.0', '2.4e1', '-1', 'true', '{}'].map((literal) => [
      `${network},"SubnetLen":${literal}`,
      'CONFIG_TYPE',
      'SubnetLen',
      'whole number',
    ]),
    [`${network},"SubnetMin":"10.6.0.0"`, 'CONFIG_RANGE', 'SubnetMin', '10.5.0.0/16'],
    [`${network},"SubnetMax":"10.4.255.0"`, 'CONFIG_RANGE', 'SubnetMax', '10.5.0.0/16'],
    [`${network},"SubnetMin":"10.5.1.1"`, 'CONFIG_BOUNDARY', 'SubnetMin', 'first'],
    [`${network},"SubnetMax":"10.5.255.255"`, 'CONFIG_BOUNDARY', 'SubnetMax'],
    [
      `${network},"SubnetMin":"10.5.9.0","SubnetMax":"10.5.8.0"`,
      'CONFIG_ORDER',
      'SubnetMin',
      'above SubnetMax 10.5.8.0',
    ],
    [`${network},"SubnetMax":"10.5.0.0"`, 'CONFIG_ORDER', 'SubnetMax'],
    [`${network},"SubnetMin":"10.5.1.0/24"`, 'CONFIG_TYPE', 'SubnetMin'],
    [`${network},"EnableIPv4":"true"`, 'CONFIG_TYPE', 'EnableIPv4', 'true or false'],
    [`${network},"EnableNFTables":1`, 'CONFIG_TYPE', 'EnableNFTables'],
    [`${network},"EnableIPv4":false`, 'CONFIG_FAMILY', 'EnableIPv4', 'at least one family'],
    [dual, 'CONFIG_MISSING', 'IPv6Network', 'required'],
    [`${dual},"IPv6Network":"::/0"`, 'CONFIG_RANGE', 'IPv6Network'],
    [`${dual},"IPv6Network":"10.6.0.0/16"`, 'CONFIG_TYPE', 'IPv6Network'],
    [`${dual},"IPv6Network":"fc00::/125"`, 'CONFIG_LENGTH', 'IPv6Network'],
    [`${dual},"IPv6Network":"fc00::/48","IPv6SubnetLen":127`, 'CONFIG_LENGTH', 'IPv6SubnetLen'],
    [`${dual},"IPv6Network":"fc00::/48","IPv6SubnetMin":"fc01::"`, 'CONFIG_RANGE', 'IPv6SubnetMin'],
    [`${dual},"IPv6Network":"fc00::/48","IPv6SubnetMax":"fc00::1"`, 'CONFIG_BOUNDARY', 'IPv6SubnetMax'],
  ])('%s', (members, code, key, said = '') => {
    const error = failure(withBackend(members));
    expect({ code: error.code, key: error.key }).toEqual({ code, key });
    expect(error.message).toContain(key);
    expect(`${error.message} ${error.remedy}`).toContain(said);
    expect(error.remedy).toMatch(/^[A-Z].*\.$/);
  });

  it('is explained by the key, its value and the rule', () => {
    expect(failure(withBackend(`${network},"SubnetMin":"10.5.9.7"`))).toMatchObject({
      message: 'SubnetMin is 10.5.9.7: it must be the first address of a /24 subnet (SubnetLen)',
      remedy: 'Use 10.5.9.0, the start of the subnet it lies in.',
    });
    expect(failure(withBackend('"Netwrok":"10.5.0.0/16"')).message).toBe(
      'Network is missing (but there is "Netwrok"): it is required unless "EnableIPv4": false',
    );
  });

  // What faults JSON may have is a table in json-fault.test.ts.
  it.each(['', 'null', '5', '[]', '{'])('is %j, which is no JSON object', (text) => {
    expect(failure(text)).toMatchObject({ code: 'CONFIG_SYNTAX', key: '' });
  });

  it('is shown without control characters and cut', () => {
    const { message } = failure(`{"Network":"\u001b[31m\u202e${'x'.repeat(1_000_000)}"`);
    expect(message).toMatch(/^[\x20-\x7e…]{1,400}$/);
    expect(failure(withBackend('"Network":"\\u001b[31m\u202e"')).message).toContain('\\u202e');
  });

  it.each([5, 20_000, 2_000_000])(
    'is nested %i deep: no stack overflows',
    (depth) => {
      const nested = `${'['.repeat(depth)}${']'.repeat(depth)}`;
      const text = withBackend(`"Network":"10.5.0.0/16","x":${nested}`);
      if (depth < 10_000) expect(parseNetworkConfig(text).warnings).toHaveLength(1);
      else expect(failure(text).code).toBe('CONFIG_SYNTAX');
    },
    30_000,
  );
});

describe('any text', () => {
  it('that is accepted keeps the pool inside the network, on boundaries, and not empty', () => {
    const length = fc.integer({ min: 1, max: 30 });
    const address = fc
      .integer({ min: 0, max: 2 ** 24 })
      .map((n) => `10.${n >> 16}.${(n >> 8) & 255}.${n & 192}`);
    const config = fc.record(
      {
        Network: fc.tuple(address, length).map((parts) => parts.join('/')),
        SubnetLen: length,
        SubnetMin: address,
        SubnetMax: address,
      },
      { requiredKeys: ['Network'] },
    );
    let accepted = 0;
    fc.assert(
      fc.property(config, (given) => {
        try {
          const { ipv4 } = parseNetworkConfig(JSON.stringify({ ...given, Backend: { Type: 'host-gw' } }));
          expectPoolInvariants(ipv4, 4, 30);
          accepted++;
        } catch (error) {
          if (!(error instanceof NetworkConfigError)) throw error;
        }
      }),
      { numRuns: 3000 },
    );
    expect(accepted).toBeGreaterThan(100);
  });
});

function warnings(members: string): readonly string[] {
  return parseNetworkConfig(withBackend(`${network},${members}`)).warnings;
}

function withText(backend: string): string {
  return `{${network},"Backend":${backend}}`;
}

describe('keys, as Go’s encoding/json reads them', () => {
  it('count in any case, also in the two letters that Unicode folds into ASCII', () => {
    expect(ipv4Pool('"nETwoRK":"10.5.0.0/16","subnetlen":26')).toContain('/26 from');
    expect(ipv4Pool('"Networ\u212a":"10.5.0.0/16","\u017fubnetLen":26')).toContain('/26 from');
    expect(ipv4Pool(`${network},"\\u0053ubnetLen":26`)).toContain('/26 from');
    expect(failure('{"NETWORK":"10.5.0.0/16","BACKEND":{"TYPE":"vxlan"}}').key).toBe('Backend.Type');
  });

  it('are not matched by letters that only JavaScript folds', () => {
    expect(ipv4Pool(`${network},"SUBNETLEN\u0307":26`)).toContain('/24 from');
    expect(warnings('"EnableNFTable\u00df":true').join()).toContain('unknown key');
  });

  // JSON.parse keeps the first place and the last value of equal keys: it alone would give 25 here.
  it('given several times: the last in the text counts', () => {
    expect(ipv4Pool(`${network},"SubnetLen":24,"subnetlen":25,"SubnetLen":26`)).toContain('/26 from');
    expect(ipv4Pool(`${network},"subnetlen":26,"SubnetLen":25`)).toContain('/25 from');
    expect(warnings('"SubnetLen":24,"subnetlen":25')).toEqual([
      'SubnetLen is given more than once: the last value, 25, counts',
    ]);
  });

  it('given as null leave the value before them', () => {
    expect(ipv4Pool(`${network},"SubnetLen":26,"subnetlen":null`)).toContain('/26 from');
    expect(ipv4Pool(`${network},"EnableIPv4":null`)).toContain('10.5.0.0/16');
  });

  it('keep their order and their values with any JSON around them', () => {
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.string(), fc.json()), { maxLength: 6 }),
        fc.integer({ min: 18, max: 30 }),
        (others, length) => {
          const harmless = others.map(([key, json]) => `${JSON.stringify(`?${key}`)} :\t${json}`);
          const members = [network, '"SubnetLen":19', ...harmless, ` "subnetLEN"\n:\r ${length} `];
          expect(ipv4Pool(members.join(','))).toContain(`: /${length} from`);
        },
      ),
    );
  });
});

describe('the warnings', () => {
  it('name an unknown key once, with the nearest known one', () => {
    expect(warnings('"SubnetLength":24,"SubnetLength":24,"colour":"blue"')).toEqual([
      'unknown key "SubnetLength" is ignored; did you mean SubnetLen?',
      'unknown key "colour" is ignored',
    ]);
  });

  it('take __proto__ and constructor for keys like any other', () => {
    expect(warnings('"__proto__":{"SubnetLen":26},"constructor":1,"":2')).toEqual([
      'unknown key "__proto__" is ignored',
      'unknown key "constructor" is ignored',
      'unknown key "" is ignored',
    ]);
    expect(failure('{"__proto__":{"Network":"10.5.0.0/16","Backend":{"Type":"host-gw"}}}').key).toBe(
      'Backend',
    );
  });

  it('stay few and printable, whatever the keys', () => {
    const many = Array.from(
      { length: 20_000 },
      (_, index) => `"\\u001b${index}${'k'.repeat(index % 90)}":0`,
    ).join(',');
    const lines = warnings(many);
    expect(lines).toHaveLength(9);
    expect(lines.at(-1)).toBe('19992 more unknown keys are ignored');
    for (const line of lines) expect(line).toMatch(/^[\x20-\x7e…]{1,200}$/);
    expect(warnings(`"${'x'.repeat(1_000_000)}":0`)[0]).toHaveLength('unknown key "" is ignored'.length + 61);
  });

  it.each([
    ['8.8.0.0/16', true],
    ['172.0.0.0/8', true],
    ['172.20.0.0/16', false],
  ])('tell of public addresses: %s, %s', (text, isPublic) => {
    const said = parseNetworkConfig(withBackend(`"Network":"${text}"`)).warnings.join();
    expect(said.includes(`Network ${text} has public addresses: hosts and containers`)).toBe(isPublic);
  });

  it('tell of bits beyond a network’s length', () => {
    expect(parseNetworkConfig(withBackend('"Network":"10.5.1.0/16"'))).toMatchObject({
      ipv4: { network: { text: '10.5.0.0/16' } },
      warnings: ['Network 10.5.1.0/16 has bits set beyond its length: taken as 10.5.0.0/16'],
    });
  });
});

describe('the backend', () => {
  it.each([
    '{"Type":"host-gw"}',
    '{"type":"Host-GW"}',
    '{"Type":"vxlan","TYPE":"host-gw"}',
    '{"Type":"host-gw","type":null}',
    '{ "x":[{"]":"}\\""}], "Type" : "host\\u002dgw" }',
  ])('%s is host-gw', (backend) => {
    expect(parseNetworkConfig(withText(backend)).ipv4?.subnetLength).toBe(24);
  });

  it.each([
    ['null', 'Backend', 'CONFIG_BACKEND'],
    ['"host-gw"', 'Backend', 'CONFIG_TYPE'],
    ['{}', 'Backend.Type', 'CONFIG_BACKEND'],
    ['{"Type":5}', 'Backend.Type', 'CONFIG_BACKEND'],
    ['{"Type":"vxlan"}', 'Backend.Type', 'CONFIG_BACKEND'],
    ['{"Type":"host-gw","type":"udp"}', 'Backend.Type', 'CONFIG_BACKEND'],
    ['{"Type":{"Type":"host-gw"}}', 'Backend.Type', 'CONFIG_BACKEND'],
  ])('%s is an error', (backend, key, code) => {
    const error = failure(withText(backend));
    expect({ key: error.key, code: error.code }).toEqual({ key, code });
    expect(error.message).toContain('Backend');
    expect(error.remedy).toContain('{"Type": "host-gw"}');
  });

  it('is udp to flannel when absent: an error that says so', () => {
    expect(failure(`{${network}}`)).toMatchObject({
      key: 'Backend',
      message: 'Backend is missing: flannel then means udp, and only host-gw is supported',
    });
  });
});
