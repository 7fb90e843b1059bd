import type { SystemdContainer } from '../testbed/systemd-container.ts';

/**
 * What the flannel 0.7.1 package of CentOS 7 puts on a host, as its users know it, and the part of that system's docker
 * package that belongs to it. The daemon itself is left out: it is a name that must never be run here.
 */
export const CENTOS_FILES: Readonly<Record<string, string>> = {
  '/usr/lib/systemd/system/flanneld.service': `
[Unit]
Description=Flanneld overlay address etcd agent
After=network.target network-online.target etcd.service
Wants=network-online.target
Before=docker.service

[Service]
Type=notify
EnvironmentFile=/etc/sysconfig/flanneld
EnvironmentFile=-/etc/sysconfig/docker-network
ExecStart=/usr/bin/flanneld-start $FLANNEL_OPTIONS
ExecStartPost=/usr/libexec/flannel/mk-docker-opts.sh -k DOCKER_NETWORK_OPTIONS -d /run/flannel/docker
Restart=on-failure

[Install]
WantedBy=multi-user.target
RequiredBy=docker.service
`,
  '/usr/lib/systemd/system/docker.service.d/flannel.conf': `
[Service]
EnvironmentFile=-/run/flannel/docker
`,
  '/usr/lib/tmpfiles.d/flannel.conf': 'd /run/flannel 0755 root root -\n',
  '/usr/bin/flanneld-start': `#!/bin/sh
endpoints=\${FLANNEL_ETCD_ENDPOINTS:-\${FLANNEL_ETCD}}
prefix=\${FLANNEL_ETCD_PREFIX:-\${FLANNEL_ETCD_KEY}}
exec /usr/bin/flanneld -etcd-endpoints=$endpoints -etcd-prefix=$prefix "$@"
`,
  '/usr/bin/flanneld': `#!/bin/sh
echo 'the flanneld of the package was started' >&2
exit 1
`,
  '/usr/libexec/flannel/mk-docker-opts.sh': `#!/bin/sh
echo 'the mk-docker-opts.sh of the package was started' >&2
exit 1
`,
  // The docker package reads its network options from there, and has them on its command line.
  '/etc/systemd/system/docker.service.d/centos.conf': `
[Service]
EnvironmentFile=-/etc/sysconfig/docker-network
ExecStart=
ExecStart=/usr/sbin/dockerd -H fd:// --containerd=/run/containerd/containerd.sock $DOCKER_NETWORK_OPTIONS
`,
};

/** The files a change of the daemon must leave as they are. */
export const HOST_FILES = Object.keys(CENTOS_FILES).filter(
  (path) => !/\/(?:flanneld|mk-docker-opts\.sh)$/.test(path),
);

/** Puts the package on a host, with an empty sysconfig file, and enables its unit, which docker's requires from then on. */
export async function installCentosPackage(host: SystemdContainer): Promise<void> {
  for (const [path, content] of Object.entries(CENTOS_FILES)) {
    await writeFile(host, path, content.replace(/^\n/, ''));
    if (content.startsWith('#!')) await host.exec('chmod', '755', path);
  }
  await writeFile(host, '/etc/sysconfig/flanneld', '');
  await host.sh('systemd-tmpfiles --create; systemctl daemon-reload; systemctl enable --quiet flanneld');
}

/** Writes a text file on a host. */
export async function writeFile(host: SystemdContainer, path: string, content: string): Promise<void> {
  await host.exec('sh', '-ec', 'mkdir -p "${1%/*}"; printf %s "$2" >"$1"', 'sh', path, content);
}
