import { SimKernel } from '../../sim/kernel.ts';
import { Segment } from '../../sim/segment.ts';
import { ADDRESS, type ArpStation, arpContract, THERE } from './arp.ts';

arpContract('in memory', async () => {
  const segment = new Segment();
  const station = (macPrefix: string, own: string): ArpStation => {
    const kernel = new SimKernel({ macPrefix });
    const linkIndex = kernel.createLink('eth0');
    kernel.addAddress('eth0', `${own}/24`);
    const arp = segment.join(kernel);
    return {
      mac: kernel.link('eth0').mac ?? '',
      open: (address) => arp.open(linkIndex, address),
      addAddress: async (address) => kernel.addAddress('eth0', `${address}/24`),
      removeAddress: async (address) => kernel.removeAddress('eth0', `${address}/24`),
      setLinkUp: async (up) => kernel.setLinkUp('eth0', up),
    };
  };
  return {
    here: station('02:00:00:01', ADDRESS),
    there: station('02:00:00:02', THERE),
    close: async () => {},
  };
});
