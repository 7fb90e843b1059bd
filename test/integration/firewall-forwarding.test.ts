import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type Host, makeNetwork, type Network } from '../testbed/netns.ts';
import { runToEnd } from '../testbed/process.ts';

const SOURCES = join(import.meta.dirname, '../../src/daemon');

/** Runs in the host's network: there, and only there, the settings are the host's. */
const SCRIPT = `
const { nodeFiles: files } = await import(${JSON.stringify(join(SOURCES, 'files.ts'))});
const { prepareForwarding } = await import(${JSON.stringify(join(SOURCES, 'forwarding.ts'))});
const tell = (fields) => console.log(fields.event, fields.family);
const log = { debug: tell, info: tell, warn: tell, error: tell };
await prepareForwarding({ files, log, families: [4, 6], setIpForward: process.argv[1] === 'set' });`;

let network: Network;
let host: Host;

beforeAll(async () => {
  network = await makeNetwork([{ addresses: ['10.211.55.100/24'] }]);
  const [only] = network.hosts;
  if (only === undefined) throw new Error('no host');
  host = only;
});
afterAll(() => network?.close());

const settings = ['net/ipv4/ip_forward', 'net/ipv6/conf/all/forwarding'].map((name) => `/proc/sys/${name}`);
const read = async () => (await host.exec('cat', ...settings)).trim().split('\n');

async function prepare(what: 'set' | 'report'): Promise<readonly string[]> {
  const node = [process.execPath, '--input-type=module', '-e', SCRIPT, what];
  const { exit, stdout, output } = await runToEnd([
    'nsenter',
    `--net=/run/netns/${host.namespace}`,
    '--',
    ...node,
  ]);
  expect(exit.code, output).toBe(0);
  return stdout.split('\n').filter(Boolean);
}

test('forwarding that is off is reported, and switched on in the kernel only when asked for', async () => {
  for (const path of settings) await host.exec('sh', '-c', `echo 0 >${path}`);
  expect(await prepare('report')).toEqual(['not-forwarding 4', 'not-forwarding 6']);
  expect(await read()).toEqual(['0', '0']);
  expect(await prepare('set')).toEqual(['forwarding-set 4', 'forwarding-set 6']);
  expect(await read()).toEqual(['1', '1']);
  expect(await prepare('set')).toEqual([]);
});
