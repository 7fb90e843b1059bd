import { type Fault, onHost } from './fault.ts';

const long = [500, 200_000] as const;
/** What iptables answers when it cannot. */
const answers = [
  { exitCode: 4, stderr: 'Another app is currently holding the xtables lock.' },
  { exitCode: 1, stderr: 'iptables: Invalid argument.' },
] as const;

/** What happens to a host's firewall rules, and to the tool. */
export const firewallFaults: Readonly<Record<string, Fault>> = {
  'the firewall tool fails': onHost({ weight: 1, lastsMs: long }, (host, _, { dice }) => {
    const { firewall } = host;
    const { exitCode, stderr } = answers[dice % 2] ?? answers[0];
    firewall.before = () => ({ exitCode, stdout: '', stderr });
    return () => {
      firewall.before = undefined;
    };
  }),
  'the firewall tool is missing': onHost({ weight: 1, lastsMs: long }, (host) => {
    const { missing } = host.firewall;
    const programs = ['iptables', 'iptables-save', 'iptables-restore'];
    for (const program of programs) missing.add(program);
    return () => {
      for (const program of programs) missing.delete(program);
    };
  }),
  'firewall rules flushed': onHost({ weight: 2, lastsMs: [1, 2] }, (host) => {
    host.firewall.answer({ program: 'iptables', args: ['-t', 'filter', '-F'], stdin: '' });
    return undefined;
  }),
};
