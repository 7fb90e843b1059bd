import { type Arp, ArpError, type ArpPacket, type ArpSocket } from '../src/arp/arp.ts';
import type { Link } from '../src/kernel/kernel.ts';
import { Wake } from '../src/runtime/wake.ts';
import type { SimKernel } from './kernel.ts';

/** As many packets as Linux's buffer holds; more are dropped. */
const capacity = 20;

/**
 * One Ethernet segment: hosts that hear each other's ARP packets over the links of one name. Their kernels answer requests for
 * their addresses, as Linux does, also when no daemon runs.
 */
export class Segment {
  readonly #linkName: string;
  readonly #kernels: SimKernel[] = [];
  readonly #sockets = new Set<SimArpSocket>();
  /** Every packet that was sent by daemons, for tests. */
  readonly sent: ArpPacket[] = [];
  /** Set: opening a socket fails with this errno. */
  refusal: string | undefined;

  constructor(linkName = 'eth0') {
    this.#linkName = linkName;
  }

  /** Plugs a host in; its daemons' ARP. */
  join(kernel: SimKernel): Arp {
    this.#kernels.push(kernel);
    kernel.onLinkChange = () => {
      for (const socket of this.#sockets) socket.wake();
    };
    return {
      open: (linkIndex, address) => {
        if (this.refusal !== undefined)
          throw new ArpError(this.refusal, `cannot open an ARP socket: ${this.refusal}`);
        const link = kernel.links().find(({ index }) => index === linkIndex);
        if (link === undefined) throw new ArpError('ENODEV', 'cannot open an ARP socket: ENODEV');
        const socket = new SimArpSocket({
          isUp: () => kernel.links().some(({ index, up }) => index === linkIndex && up),
          address,
          linkIndex,
          kernel,
          send: (packet) => {
            this.sent.push(packet);
            this.#transmit(kernel, packet);
          },
          onClose: () => this.#sockets.delete(socket),
        });
        this.#sockets.add(socket);
        return socket;
      },
    };
  }

  /** A packet that a host sends, or a stranger that is none of the kernels. */
  #transmit(from: SimKernel | undefined, packet: ArpPacket): void {
    if (from !== undefined && this.#plugged(from) === undefined) return;
    for (const kernel of this.#kernels) {
      const link = kernel === from ? undefined : this.#plugged(kernel);
      if (link === undefined) continue;
      this.#deliver(kernel, link, packet);
      if (from === undefined || packet.operation !== 'request') continue;
      const has = (text: string) => kernel.addresses().some(({ address }) => address === text);
      const to = this.#plugged(from);
      // What claims to come from its own address Linux drops as impossible.
      if (!has(packet.target) || has(packet.sender) || to === undefined || link.mac === undefined) continue;
      const { sender, target } = packet;
      this.#deliver(from, to, { operation: 'reply', senderMac: link.mac, sender: target, target: sender });
    }
  }

  /** What a host outside the simulation says, to all. */
  say(packet: ArpPacket): void {
    this.#transmit(undefined, packet);
  }

  #deliver(kernel: SimKernel, link: Link, packet: ArpPacket): void {
    for (const socket of this.#sockets) if (socket.listensOn(kernel, link)) socket.push(packet);
  }

  #plugged(kernel: SimKernel): Link | undefined {
    return kernel.links().find(({ name, up, carrier }) => name === this.#linkName && up && carrier);
  }
}

interface SimArpSocketOptions {
  readonly kernel: SimKernel;
  readonly linkIndex: number;
  readonly address: string;
  readonly isUp: () => boolean;
  readonly send: (packet: ArpPacket) => void;
  readonly onClose: () => void;
}

class SimArpSocket implements ArpSocket {
  readonly #options: SimArpSocketOptions;
  readonly #wake = new Wake();
  #packets: ArpPacket[] = [];
  #closed = false;

  constructor(options: SimArpSocketOptions) {
    this.#options = options;
  }

  listensOn(kernel: SimKernel, { index }: Link): boolean {
    return this.#options.kernel === kernel && this.#options.linkIndex === index;
  }

  push(packet: ArpPacket): void {
    const { address } = this.#options;
    const claims = packet.sender === address;
    const asks = packet.sender === '0.0.0.0' && packet.target === address;
    if ((claims || asks) && this.#packets.length < capacity) this.#packets.push(packet);
    this.#wake.wake();
  }

  /** Its link may have gone down. */
  wake(): void {
    this.#wake.wake();
  }

  send(packet: ArpPacket): void {
    this.#throwUnlessUp();
    this.#options.send(packet);
  }

  async next(signal: AbortSignal): Promise<readonly ArpPacket[]> {
    for (;;) {
      signal.throwIfAborted();
      this.#throwUnlessUp();
      if (this.#packets.length > 0) return this.#packets.splice(0);
      await this.#wake.wait(signal);
    }
  }

  close(): void {
    this.#closed = true;
    this.#options.onClose();
    this.#wake.wake();
  }

  #throwUnlessUp(): void {
    if (this.#closed) throw new ArpError('EBADF', 'the ARP socket is closed');
    if (!this.#options.isUp()) throw new ArpError('ENETDOWN', 'the link is down');
  }
}
