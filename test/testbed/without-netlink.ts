import { spawnSync } from 'node:child_process';
import process from 'node:process';
import koffi from 'koffi';

// Runs a command for which the kernel has no netlink sockets, as under a unit's RestrictAddressFamilies=, a container's seccomp
// profile, or gVisor: node without-netlink.ts COMMAND…

const PR_SET_SECCOMP = 22;
const SECCOMP_MODE_FILTER = 2;
const SYS_SOCKET = process.arch === 'arm64' ? 198 : 41;
const AF_NETLINK = 16;
const EAFNOSUPPORT = 97;
const RETURN_ALLOW = 0x7fff0000;
const RETURN_ERRNO = 0x00050000;
/** BPF_LD | BPF_W | BPF_ABS, BPF_JMP | BPF_JEQ | BPF_K and BPF_RET | BPF_K. */
const [LOAD, JUMP_IF_EQUAL, RETURN] = [0x20, 0x15, 0x06];
/** Offsets of nr and args[0] in struct seccomp_data. */
const [NUMBER, FIRST_ARGUMENT] = [0, 16];

const filter = [
  { code: LOAD, jt: 0, jf: 0, k: NUMBER },
  { code: JUMP_IF_EQUAL, jt: 0, jf: 3, k: SYS_SOCKET },
  { code: LOAD, jt: 0, jf: 0, k: FIRST_ARGUMENT },
  { code: JUMP_IF_EQUAL, jt: 0, jf: 1, k: AF_NETLINK },
  { code: RETURN, jt: 0, jf: 0, k: RETURN_ERRNO | EAFNOSUPPORT },
  { code: RETURN, jt: 0, jf: 0, k: RETURN_ALLOW },
];

const instruction = koffi.struct('sock_filter', { code: 'uint16', jt: 'uint8', jf: 'uint8', k: 'uint32' });
koffi.struct('sock_fprog', { len: 'uint16', filter: koffi.pointer(instruction) });
const prctl = koffi.load(null).func('int prctl(int, unsigned long, sock_fprog *)');
if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, { len: filter.length, filter }) !== 0)
  throw new Error(`prctl: errno ${koffi.errno()}`);
const [command = '', ...argv] = process.argv.slice(2);
const { status } = spawnSync(command, argv, { stdio: 'inherit' });
process.exit(status ?? 1);
