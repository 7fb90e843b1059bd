import { spawnSync } from 'node:child_process';
import { describe, expect, it } from 'vitest';
import { renderDockerOpts } from '../../src/daemon/env-files.ts';
import { subnetAt } from '../../src/ip/ip.ts';

const subnet = subnetAt(4, 0xac145b00n, 24);
const ipv4 = { network: subnet, subnet };

describe('rendering docker_opts.env', () => {
  it.each([
    [{ ipv4, mtu: 1500, ipMasq: false }, '--bip=172.20.91.1/24 --ip-masq=true --mtu=1500'],
    [{ ipv4, mtu: 9000, ipMasq: true }, '--bip=172.20.91.1/24 --ip-masq=false --mtu=9000'],
    [{ mtu: 1500, ipMasq: true }, '--ip-masq=false --mtu=1500'],
  ])('gives the bytes of mk-docker-opts.sh -c, without --bip while IPv4 is off: %#', (options, text) => {
    expect(renderDockerOpts(options, 'DOCKER_NETWORK_OPTIONS')).toBe(`DOCKER_NETWORK_OPTIONS=" ${text}"\n`);
  });

  it('is what a shell reads back', () => {
    const script = `${renderDockerOpts({ ipv4, mtu: 1500, ipMasq: false }, 'K')}printf '[%s]' $K`;
    expect(spawnSync('sh', ['-c', script], { encoding: 'utf8' }).stdout).toBe(
      '[--bip=172.20.91.1/24][--ip-masq=true][--mtu=1500]',
    );
  });
});
