import { expect, it } from 'vitest';
import { VirtualClock } from '../../sim/clock.ts';
import { SimLog } from '../../sim/log.ts';
import { EtcdCalls } from '../../src/daemon/etcd-members.ts';
import { bridgeMetrics } from '../../src/daemon/report/bridge-metrics.ts';
import type { BridgeView } from '../../src/migrate/bridge.ts';
import { BridgeState } from '../../src/migrate/bridge-state.ts';
import { TroubleLog } from '../../src/runtime/trouble.ts';

const atRest: BridgeView = {
  onV2: 2,
  onV3: 1,
  conflicts: [],
  orphans: [],
  inStep: true,
  waitsFor: undefined,
  config: { what: 'there', why: '', needsOperator: false },
  skipped: [],
  writes: new Map([['create-v3', 2]]),
};

function stateOf(view: Partial<BridgeView> = {}) {
  const clock = new VirtualClock();
  const log = new SimLog(clock);
  const bridge = { view: { ...atRest, ...view } };
  const trouble = new TroubleLog(clock, log.of('bridge'));
  const notices = new TroubleLog(clock, log.of('bridge'));
  const state = new BridgeState({ bridge, clock, log: log.of('bridge'), trouble, notices });
  return { state, bridge, trouble, log };
}

it('is ready when both stores are alike, and counts their hosts', () => {
  const { state } = stateOf();
  expect(state.snapshot()).toMatchObject({ ready: true, reasons: [], degraded: [], notices: [] });
  expect(state.summary).toBe('2 hosts on v2, 1 on v3, 0 conflicts');
});

it('is not ready before, while a store does not answer, and while another bridge is at work', () => {
  const { state, trouble } = stateOf({ inStep: false });
  expect(state.snapshot()).toMatchObject({ ready: false, reasons: ['comparing both stores'] });
  trouble.report('v2-store', 'the v2 store: no answer');
  expect(state.snapshot().reasons).toEqual(['the v2 store: no answer']);
  expect(state.summary).toBe('2 hosts on v2, 1 on v3, 0 conflicts; the v2 store: no answer');
  const waiting = stateOf({ inStep: false, waitsFor: 'other, process 7' }).state;
  expect(waiting.snapshot()).toMatchObject({ ready: false });
  expect(waiting.summary).toBe('another bridge (other, process 7) is at work; waiting until it ends');
});

it('names conflicts, and the configuration that an operator has to decide about, with what to do; it stays ready', () => {
  const { state, bridge, log } = stateOf({
    conflicts: [{ subnet: '10.5.1.0/24', why: 'v2 has it for 10.0.0.1, v3 for 10.0.0.2' }],
    config: { what: 'differs', why: 'from v2 to v3: Network', needsOperator: true },
  });
  const { ready, degraded } = state.snapshot();
  expect(ready).toBe(true);
  expect(degraded).toEqual([
    expect.stringMatching(
      /^the configurations of both stores differ.* etcdctl put PREFIX\/config JSON \(from v2 to v3: Network\)$/,
    ),
    expect.stringMatching(
      /^10\.5\.1\.0\/24 is in conflict: v2 has it for 10\.0\.0\.1, .* lease release SUBNET/,
    ),
  ]);
  state.logFaults();
  state.logFaults();
  expect(log.events('trouble')).toHaveLength(2);
  bridge.view = atRest;
  state.logFaults();
  expect(log.events('trouble-over')).toHaveLength(2);
});

it('says what it leaves alone: copies without an original, and keys of v2 that are no leases', () => {
  const { state } = stateOf({
    orphans: [
      { subnet: '10.5.1.0/24', host: '10.0.0.1', store: 'v2' },
      { subnet: '10.5.2.0/24', host: '10.0.0.2', store: 'v3' },
    ],
    skipped: [{ key: '/net/subnets/junk', why: 'its key names no subnet (a.b.c.d-len)' }],
  });
  expect(state.snapshot()).toMatchObject({
    ready: true,
    degraded: [],
    notices: [
      expect.stringMatching(
        /^10\.5\.1\.0\/24 of 10\.0\.0\.1 is in v2 as a copy alone.*ETCDCTL_API=2 etcdctl rm KEY$/,
      ),
      expect.stringMatching(
        /^10\.5\.2\.0\/24 of 10\.0\.0\.2 is in v3 .*flanneld-ts lease release 10\.5\.2\.0\/24$/,
      ),
      '/net/subnets/junk in v2 is left out: its key names no subnet (a.b.c.d-len)',
    ],
  });
});

it('tells Prometheus the same', async () => {
  const { state } = stateOf({ conflicts: [{ subnet: '10.5.1.0/24', why: '' }] });
  const text = await bridgeMetrics(state, new EtcdCalls()).render();
  for (const line of [
    'flannel_bridge_in_step 1',
    'flannel_bridge_leases{store="v2"} 2',
    'flannel_bridge_leases{store="v3"} 1',
    'flannel_bridge_conflicts 1',
    'flannel_bridge_writes_total{what="create-v3"} 2',
  ])
    expect(text.split('\n')).toContain(line);
});
