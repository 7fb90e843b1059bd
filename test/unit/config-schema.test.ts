import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { expect, it, test } from 'vitest';
import { z } from 'zod';
import { NetworkConfigError, parseNetworkConfig } from '../../src/subnet/config/config.ts';
import { withBackend } from './config-helpers.ts';

const file = join(import.meta.dirname, '../../docs/config.schema.json');
const schema: Parameters<typeof z.fromJSONSchema>[0] = JSON.parse(readFileSync(file, 'utf8'));
const validator = z.fromJSONSchema(schema);

const bySchema = (text: string) => validator.safeParse(JSON.parse(text)).success;

function byDaemon(text: string): boolean {
  try {
    parseNetworkConfig(text);
    return true;
  } catch (error) {
    if (error instanceof NetworkConfigError) return false;
    throw error;
  }
}

const net = '"Network":"10.5.0.0/16"';
const dual = `${net},"EnableIPv6":true,"IPv6Network":"fc00:5::/48"`;

// In the spelling of README: the schema holds for editors, which know no keys in any case.
test.each([
  [true, withBackend(net)],
  [true, withBackend(`${net},"SubnetLen":26,"SubnetMin":"10.5.1.0","SubnetMax":"10.5.9.0"`)],
  [true, withBackend(`${net},"SubnetLen":null,"SubnetMin":null,"EnableIPv6":null,"x":[1]`)],
  [true, withBackend(`${net},"SubnetLen":0,"SubnetMin":"0.0.0.0"`)],
  [true, withBackend('"Network":"10.5.0.0/28"')],
  [true, withBackend(dual)],
  [true, withBackend('"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fc00::/124"')],
  [
    true,
    withBackend('"EnableIPv4":false,"Network":"10.0.0.0/31","EnableIPv6":true,"IPv6Network":"fc00::/48"'),
  ],
  [true, withBackend(`${net},"IPv6Network":"fc00::/127","IPv6SubnetLen":128`)],
  [true, `{${net},"Backend":{"Type":"Host-GW","Port":1}}`],
  [false, withBackend('')],
  [false, `{${net}}`],
  [false, `{${net},"Backend":null}`],
  [false, `{${net},"Backend":"host-gw"}`],
  [false, `{${net},"Backend":{}}`],
  [false, `{${net},"Backend":{"Type":"vxlan"}}`],
  [false, '[]'],
  [false, withBackend('"Network":"10.5.0.0"')],
  [false, withBackend('"Network":"010.5.0.0/16"')],
  [false, withBackend('"Network":"10.5.0.256/16"')],
  [false, withBackend('"Network":"10.5.0.0/29"')],
  [false, withBackend('"Network":"0.0.0.0/0"')],
  [false, withBackend('"Network":"fc00::/48"')],
  [false, withBackend('"Network":null')],
  [false, withBackend(`${net},"SubnetLen":"24"`)],
  [false, withBackend(`${net},"SubnetLen":24.5`)],
  [false, withBackend(`${net},"SubnetLen":31`)],
  [false, withBackend(`${net},"SubnetLen":-1`)],
  [false, withBackend(`${net},"SubnetMin":"10.5.1.0/24"`)],
  [false, withBackend(`${net},"EnableNFTables":"true"`)],
  [false, withBackend(`${net},"EnableIPv4":false`)],
  [false, withBackend(`${net},"EnableIPv6":true`)],
  [false, withBackend(`${dual},"IPv6SubnetLen":127`)],
  [false, withBackend(`${net},"EnableIPv6":true,"IPv6Network":"fc00::/125"`)],
  [false, withBackend(`${net},"IPv6SubnetMin":1`)],
])('schema and daemon say %s of %s', (verdict, text) => {
  expect({ schema: bySchema(text), daemon: byDaemon(text) }).toEqual({ schema: verdict, daemon: verdict });
});

// No schema can: they compare values with each other, or look at how a number is written.
test.each([
  withBackend(`${net},"SubnetLen":17`),
  withBackend(`${net},"SubnetMin":"10.6.0.0"`),
  withBackend(`${net},"SubnetMin":"10.5.0.1"`),
  withBackend(`${net},"SubnetMin":"10.5.9.0","SubnetMax":"10.5.8.0"`),
  withBackend(`${net},"SubnetLen":24.0`),
  withBackend(`${net},"IPv6Network":"::::/48"`),
])('the schema lets pass what the daemon refuses: %s', (text) => {
  expect({ schema: bySchema(text), daemon: byDaemon(text) }).toEqual({ schema: true, daemon: false });
});

it('the schema refuses nothing that the daemon accepts', () => {
  const address = fc.constantFrom('10.5.0.0', '10.5.0.0', '10.5.8.0', '0.0.0.0', '10.5.8.1', 'x');
  const length = fc.oneof(fc.integer({ min: -1, max: 33 }), fc.constantFrom(null, '24', 24.5));
  const flag = fc.constantFrom(true, false, null);
  const config = fc.record(
    {
      Network: fc.oneof(
        fc.tuple(address, fc.nat(33)).map((parts) => parts.join('/')),
        fc.constantFrom(null, 1, 'fc00::/48'),
      ),
      SubnetLen: length,
      SubnetMin: fc.oneof(address, fc.constant(null)),
      SubnetMax: address,
      IPv6Network: fc.constantFrom('fc00::/48', 'fc00::/125', 'FC00::/64', '::/0', '10.0.0.0/8', null, true),
      IPv6SubnetLen: fc.oneof(fc.integer({ min: -1, max: 130 }), fc.constant(null)),
      EnableIPv4: flag,
      EnableIPv6: flag,
      EnableNFTables: flag,
      Backend: fc.constantFrom({ Type: 'host-gw' }, { Type: 'HOST-GW', x: 1 }, {}),
      other: fc.json(),
    },
    { requiredKeys: ['Backend'] },
  );
  let accepted = 0;
  fc.assert(
    fc.property(config, (given) => {
      const text = JSON.stringify(given);
      if (!byDaemon(text)) return;
      accepted++;
      expect(bySchema(text), text).toBe(true);
    }),
    { numRuns: 5_000 },
  );
  expect(accepted).toBeGreaterThan(20);
});

it('the schema names every key of the configuration, and no other', () => {
  const source = readFileSync(join(import.meta.dirname, '../../src/subnet/config/values.ts'), 'utf8');
  const [, list = ''] = /const configKeys = \[([^\]]*)\]/.exec(source) ?? [];
  const keys = [...list.matchAll(/'(\w+)'/g)].map(([, key = '']) => key);
  expect(Object.keys((schema as { properties: object }).properties).toSorted()).toEqual(keys.toSorted());
});
