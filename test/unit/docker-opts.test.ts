import { spawnSync } from 'node:child_process';
import { describe, expect, it } from 'vitest';
import { renderDockerOpts } from '../../src/daemon/env-files.ts';
import { subnetAt } from '../../src/ip/ip.ts';

const subnet = subnetAt(4, 0xac145b00n, 24);
const ipv4 = { network: subnet, subnet };

describe('rendering docker_opts.env', () => {
  it('gives the bytes of mk-docker-opts.sh -c', () => {
    expect(renderDockerOpts({ ipv4, mtu: 1500, ipMasq: false }, 'DOCKER_OPTS')).toBe(
      'DOCKER_OPTS=" --bip=172.20.91.1/24 --ip-masq=true --mtu=1500"\n',
    );
  });

  it('tells docker not to masquerade when we do, under another key', () => {
    expect(renderDockerOpts({ ipv4, mtu: 9000, ipMasq: true }, 'DOCKER_NETWORK_OPTIONS')).toBe(
      'DOCKER_NETWORK_OPTIONS=" --bip=172.20.91.1/24 --ip-masq=false --mtu=9000"\n',
    );
  });

  it('has no --bip while IPv4 is off, as mk-docker-opts.sh has it', () => {
    expect(renderDockerOpts({ mtu: 1500, ipMasq: true }, 'DOCKER_OPTS')).toBe(
      'DOCKER_OPTS=" --ip-masq=false --mtu=1500"\n',
    );
  });

  it('is what a shell reads back', () => {
    const script = `${renderDockerOpts({ ipv4, mtu: 1500, ipMasq: false }, 'K')}printf '[%s]' $K`;
    expect(spawnSync('sh', ['-c', script], { encoding: 'utf8' }).stdout).toBe(
      '[--bip=172.20.91.1/24][--ip-masq=true][--mtu=1500]',
    );
  });
});
