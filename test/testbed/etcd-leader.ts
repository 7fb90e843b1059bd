import type { EtcdCluster, EtcdMember } from './etcd.ts';

/** The member that leads its cluster; rejects when there is none at the moment. */
export async function leaderOf({ members }: EtcdCluster): Promise<EtcdMember> {
  for (const member of members) {
    // An id exceeds what a JavaScript number holds, so that it is compared as text.
    const status = await member.ctl('endpoint', 'status', '-w', 'json');
    const id = /"member_id":(\d+)/.exec(status)?.[1];
    if (id !== undefined && /"leader":(\d+)/.exec(status)?.[1] === id) return member;
  }
  throw new Error('etcd has no leader');
}
