import type { ConfigOutcome } from './config.ts';
import type { NothingThere } from './migrate.ts';

// What an operator is told to do, by `migrate` and by `migrate --follow`.

export const conflictRemedy =
  'Find out which host uses the subnet and remove the key of the other one: flanneld-ts lease release SUBNET in v3, ' +
  'ETCDCTL_API=2 etcdctl rm KEY in v2';

const store = 'Store the one that is meant in v3: etcdctl put PREFIX/config JSON';

/** By what became of the configuration. */
export const configRemedies: Readonly<Record<ConfigOutcome['what'], string>> = {
  copied: '',
  there: 'the configuration needs a change before a host can use the v3 store',
  missing: `there is no network configuration. ${store}`,
  differs: `the configurations of both stores differ, and none was changed. ${store}`,
  refused: `the configuration was not copied. ${store}`,
};

/** `endpoints`: where the v2 store is. */
export function nothingText(endpoints: string, { nothingAt, near }: NothingThere): string {
  const where = near.map((prefix) => `--from-prefix=${prefix}`).join(' or ');
  const remedy =
    near.length === 0 ? "Name flanneld's -etcd-prefix: --from-prefix=KEY" : `There is one with ${where}`;
  return `the v2 store at ${endpoints} has no network here: neither ${nothingAt} nor a lease. ${remedy}`;
}
