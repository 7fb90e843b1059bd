import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Docker } from './docker.ts';
import { runToEnd } from './process.ts';

/** What a root file system is made of. Equal recipes share one file. */
export interface RootRecipe {
  /** Part of the file's name, for people. */
  readonly name: string;
  /** Debian's release; default: bookworm. */
  readonly suite?: string;
  /** Debian packages beyond a minimal system. */
  readonly packages: readonly string[];
  /** Units of theirs that are not started at boot. */
  readonly disabled?: readonly string[];
  /** Node as the official image has it: the toolchain's own Node under /usr/local/bin, and an npm. */
  readonly withNode?: boolean;
}

/** The image FROM names in the Dockerfile, as far as the build can tell. */
export const NODE_SLIM: RootRecipe = { name: 'node-slim', packages: [], withNode: true };

/** A host in a container: what an operator finds on a Debian server with etcd and Docker. */
export const SYSTEMD_HOST: RootRecipe = {
  name: 'systemd',
  packages: [
    'systemd',
    'systemd-sysv',
    'dbus',
    'procps',
    'iproute2',
    'iptables',
    'etcd-server',
    'etcd-client',
    'docker.io',
    'firewalld',
    'iputils-ping',
    'nftables',
  ],
  disabled: ['firewalld'],
};

const CACHE = process.env['FLANNELD_TS_CACHE'] || '/var/cache/flanneld-ts-test';
const TOOLCHAIN_NODE = join(import.meta.dirname, `../../node_modules/node-linux-${process.arch}`);
const CA_BUNDLE = '/etc/ssl/certs/ca-certificates.crt';
const NPM = 'npm@11.6.2';

/**
 * Resolves to a tar file with the root file system. Made once (a minute) by debootstrap and kept in FLANNELD_TS_CACHE
 * (default /var/cache/flanneld-ts-test), which all checkouts and runs of a machine share: the name follows from what is in it.
 */
export async function debianRoot(recipe: RootRecipe): Promise<string> {
  mkdirSync(CACHE, { recursive: true });
  const settings = await machineSettings();
  const withNode = recipe.withNode === true;
  const suite = recipe.suite ?? 'bookworm';
  const variables = {
    PACKAGES: recipe.packages.join(' '),
    DISABLED: (recipe.disabled ?? []).join(' '),
    NODE_VERSION: withNode ? toolchainVersion() : '',
    NPM,
    SUITE: suite,
    ...settings,
  };
  const certificates = existsSync(CA_BUNDLE) ? readFileSync(CA_BUNDLE, 'utf8') : '';
  const base = join(CACHE, `${suite}-${digest(SCRIPT, JSON.stringify(settings), certificates)}.tar`);
  const file = join(CACHE, `${recipe.name}-${digest(base, JSON.stringify(variables))}.tar`);
  // In namespaces of its own: when the run is killed all of its processes end, and debootstrap's mounts go with them.
  const alone = ['unshare', '--mount', '--pid', '--fork', '--kill-child', '--mount-proc', '--'];
  const { exit, output } = await runToEnd(
    [...alone, 'flock', join(CACHE, 'lock'), 'sh', '-ec', SCRIPT, 'sh', file, base],
    {
      env: {
        ...process.env,
        ...variables,
        CA_BUNDLE,
        NODE: withNode ? join(TOOLCHAIN_NODE, 'bin/node') : '',
      },
    },
  );
  if (exit.code !== 0) throw new Error(`no root file system for ${recipe.name}: ${output.slice(-4000)}`);
  return file;
}

/** Imports a root file system as an image; its containers trust the certificates that this machine trusts. */
export async function importRoot(docker: Docker, recipe: RootRecipe, image: string): Promise<void> {
  const file = await debianRoot(recipe);
  // Node has a list of its own, without a company's proxy for one.
  await docker.docker('import', '--change', `ENV NODE_EXTRA_CA_CERTS=${CA_BUNDLE}`, file, image);
}

/** How this machine reaches Debian's packages and npm's: a root file system has to go the same way. */
async function machineSettings(): Promise<Readonly<Record<string, string>>> {
  const ask = async (...argv: string[]) => (await runToEnd(argv)).stdout.trim();
  const mirrors = await ask('apt-get', 'indextargets', '--format', '$(REPO_URI)', 'Created-By: Packages');
  const mirror = mirrors.split('\n').find((uri) => /\/debian\/?$/.test(uri));
  const apt = await ask('apt-config', 'dump', '--format', '%F "%v";%n', 'Acquire');
  return {
    MIRROR: mirror ?? 'http://deb.debian.org/debian',
    APT_CONFIG_LINES: apt
      .split('\n')
      .filter((line) => /^Acquire::https?::/.test(line))
      .join('\n'),
    NPM_REGISTRY: await ask('npm', 'config', 'get', 'registry'),
  };
}

/** It is part of the recipe: another Node, another root. Where this checkout has it is not. */
function toolchainVersion(): string {
  const packageJson: { version: string } = JSON.parse(
    readFileSync(join(TOOLCHAIN_NODE, 'package.json'), 'utf8'),
  );
  return packageJson.version;
}

function digest(...parts: readonly string[]): string {
  const hash = createHash('sha256');
  for (const part of parts) hash.update(part);
  return hash.digest('hex').slice(0, 16);
}

const SCRIPT = `
umask 022
file=$1
base=$2
# What no checkout has asked for in a month is of no use any more.
for used in "$file" "$base"; do [ ! -e "$used" ] || touch "$used"; done
find "\${file%/*}" -maxdepth 1 -name '*.tar' -mtime +30 -delete
[ ! -e "$file" ] || exit 0
# What a killed run has left; the lock says that nobody is at it.
rm -rf "\${file%/*}"/*.work
root=$file.work/root
mkdir -p "$root"

if [ ! -e "$base" ]; then
  debootstrap --variant=minbase "$SUITE" "$root" "$MIRROR"
  printf '%s\\n' "$APT_CONFIG_LINES" >"$root/etc/apt/apt.conf.d/99machine"
  if [ -e "$CA_BUNDLE" ]; then
    mkdir -p "$root/etc/ssl/certs"
    cp -L "$CA_BUNDLE" "$root$CA_BUNDLE"
  fi
  rm -f "$root"/var/cache/apt/archives/*.deb
  tar -C "$root" -cf "$file.work/base.tar" .
  mv "$file.work/base.tar" "$base"
else
  tar -C "$root" -xf "$base"
fi

if [ -n "$PACKAGES" ]; then
  cp -L /etc/resolv.conf "$root/etc/resolv.conf"
  mount --bind /proc "$root/proc"
  printf '#!/bin/sh\\nexit 101\\n' >"$root/usr/sbin/policy-rc.d"
  chmod 755 "$root/usr/sbin/policy-rc.d"
  export DEBIAN_FRONTEND=noninteractive
  chroot "$root" apt-get -q update
  # A root that is thrown away when it fails needs no fsync after each package.
  chroot "$root" apt-get -q -y install --no-install-recommends -o DPkg::Options::=--force-unsafe-io $PACKAGES
  [ -z "$DISABLED" ] || chroot "$root" systemctl disable $DISABLED
  rm -rf "$root/usr/sbin/policy-rc.d" "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/*
  umount "$root/proc"
fi
if [ -n "$NODE" ]; then
  # A checkout that was made under a strict umask has it for its owner alone.
  install -m 755 "$NODE" "$root/usr/local/bin/node"
  npm install --global --prefix "$root/usr/local" --no-fund --no-audit "$NPM"
  mkdir -p "$root/usr/local/etc"
  printf 'registry=%s\\n' "$NPM_REGISTRY" >"$root/usr/local/etc/npmrc"
fi

tar -C "$root" -cf "$file.work/root.tar" .
mv "$file.work/root.tar" "$file"
rm -rf "$file.work"
`;
