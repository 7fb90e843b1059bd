import { expect, it } from 'vitest';
import { judgeConfig } from '../../src/migrate/config.ts';

const config = '{"Network":"10.5.0.0/16","Backend":{"Type":"host-gw"}}';
const reordered = '{ "Backend": {"Type": "host-gw"}, "Network": "10.5.0.0/16" }';
const longer = '{"Network":"10.5.0.0/16","SubnetLen":25,"Backend":{"Type":"host-gw"}}';
const udp = '{"Network":"10.5.0.0/16"}';

it.each<[string, string | undefined, string | undefined, string, boolean, RegExp]>([
  ['v3 has none', config, undefined, 'copied', false, /^$/],
  [
    'v3 has none, and v2 a key that means nothing',
    `{"x":1,${config.slice(1)}`,
    undefined,
    'copied',
    false,
    /"x"/,
  ],
  ['both have the same text', config, config, 'there', false, /^$/],
  ['both mean the same JSON', config, reordered, 'there', false, /^$/],
  ['they differ', config, longer, 'differs', true, /^from v2 to v3: SubnetLen 24 → 25, SubnetMin/],
  ['they differ in other keys', config, `{"x":1,${config.slice(1)}`, 'differs', true, /does not use$/],
  ['v2 has one without Backend', udp, undefined, 'refused', true, /flannel then means udp/],
  ['v2 has one without Backend, v3 with', udp, config, 'differs', true, /the one of v2: .*means udp/],
  ['both have one without Backend', udp, udp, 'there', true, /cannot use it: .*means udp/],
  ['v2 has no JSON', 'x', undefined, 'refused', true, /not a JSON object/],
  ['v2 has no JSON, v3 has', 'x', config, 'differs', true, /the one of v2: it is not a JSON object/],
  ['v3 has no JSON', config, 'x', 'differs', true, /the one of v3: it is not a JSON object/],
  ['v2 has none', undefined, config, 'missing', false, /v3 has one/],
  ['v2 has none, v3 one that no daemon takes', undefined, udp, 'missing', true, /means udp/],
  ['neither has one', undefined, undefined, 'missing', true, /neither/],
])('%s', (_, v2, v3, what, needsOperator, why) => {
  expect(judgeConfig(v2, v3)).toEqual({ what, needsOperator, why: expect.stringMatching(why) });
});
