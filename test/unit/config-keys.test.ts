import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { parseNetworkConfig } from '../../src/subnet/config/config.ts';
import { failure, ipv4Pool, withBackend } from './config-helpers.ts';

const network = '"Network":"10.5.0.0/16"';

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
    expect(parseNetworkConfig(withBackend(`${network},"EnableNFTable\u00df":true`)).enableNFTables).toBe(
      false,
    );
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
    expect(warnings('"SubnetLength":24,"SubnetLength":24')).toEqual([
      'unknown key "SubnetLength" is ignored; did you mean SubnetLen?',
    ]);
    expect(warnings('"EnableIpv66":true')).toEqual([
      'unknown key "EnableIpv66" is ignored; did you mean EnableIPv6?',
    ]);
    expect(warnings('"colour":"blue"')).toEqual(['unknown key "colour" is ignored']);
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
    ['11.0.0.0/8', true],
    ['172.20.0.0/16', false],
    ['192.168.0.0/16', false],
    ['100.64.0.0/12', false],
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
    ['["host-gw"]', 'Backend', 'CONFIG_TYPE'],
    ['{}', 'Backend.Type', 'CONFIG_BACKEND'],
    ['{"Type":null}', 'Backend.Type', 'CONFIG_BACKEND'],
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
