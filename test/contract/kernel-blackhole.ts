import { describe, expect, test } from 'vitest';
import { blackhole, type KernelFixture, routeOf } from './kernel-world.ts';

const DST4 = '172.20.1.0/24';
const DST6 = 'fd00:172:1::/64';
const FAR = 2_147_483_647;

/** Routes that drop what they take. */
export function blackholeContract(at: () => KernelFixture): void {
  const at4 = async () => (await at().table(4)).filter((line) => line.startsWith(DST4));
  const at6 = async () => (await at().table(6)).filter((line) => line.startsWith(DST6));

  describe('blackhole routes', () => {
    test.each([blackhole(DST4, FAR), blackhole(DST6, 1024)])('are put and taken: $dst', async (ours) => {
      expect(await at().add(ours)).toEqual(['done']);
      expect(await at().kernel.routes(ours.family)).toContainEqual(routeOf(ours));
      expect(await at().add(ours)).toEqual(['EEXIST']);
      const brief = `${ours.dst} proto 102 metric ${ours.metric} blackhole`;
      expect(await at().told()).toEqual([`+ ${brief}`]);
      expect(await at().remove({ ...ours, protocol: 4 })).toEqual(['ESRCH']);
      expect(await at().remove(ours)).toEqual(['done']);
      expect(await at().told()).toEqual([`- ${brief}`]);
    });

    test('lie behind a connected route that comes later', async () => {
      await at().add(blackhole(DST4, FAR));
      await at().add(blackhole(DST6, 1024));
      await at().operator.addAddress('eth0', '172.20.1.1/24');
      await at().operator.addAddress('eth0', 'fd00:172:1::1/64');
      expect(await at4()).toEqual([`${DST4} proto 2 metric 0`, `${DST4} proto 102 metric ${FAR} blackhole`]);
      expect(await at6()).toEqual([`${DST6} proto 2 metric 256`, `${DST6} proto 102 metric 1024 blackhole`]);
      expect(await at().kernel.routeTo('172.20.1.9')).toMatchObject({ type: 'unicast' });
      expect(await at().kernel.routeTo('fd00:172:1::9')).toMatchObject({ type: 'unicast' });
    });

    test('are removed by their own metric and protocol, not by another', async () => {
      await at().operator.addRoute('add', { dst: DST4, blackhole: true });
      await at().add(blackhole(DST4, FAR));
      expect(await at().remove(blackhole(DST4, 0, { protocol: 3 }))).toEqual(['done']);
      expect(await at4()).toEqual([`${DST4} proto 102 metric ${FAR} blackhole`]);
    });

    test('a removal takes no unicast route of the same key', async () => {
      await at().add(at().ours(DST4));
      await at().add(at().ours(DST6, 'fd00:55::101'));
      expect(await at().remove(blackhole(DST4, 0))).toEqual(['ESRCH']);
      expect(await at().remove(blackhole(DST6, 1024))).toEqual(['ESRCH']);
      expect([...(await at4()), ...(await at6())]).toHaveLength(2);
    });

    test("IPv6: another program's is adopted in one step", async () => {
      await at().operator.addRoute('add', { dst: DST6, blackhole: true });
      await at().events.drain();
      expect(await at().replace(blackhole(DST6, 1024))).toEqual(['done']);
      expect(await at().told()).toEqual([`= ${DST6} proto 102 metric 1024 blackhole`]);
      expect(await at6()).toEqual([`${DST6} proto 102 metric 1024 blackhole`]);
    });
  });
}
