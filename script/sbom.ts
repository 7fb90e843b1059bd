import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';

/** A component of CycloneDX 1.5, as far as we fill it in. */
export interface Component {
  readonly type: 'application' | 'library' | 'platform';
  readonly 'bom-ref': string;
  readonly name: string;
  readonly version: string;
  readonly purl?: string;
  /** What advisories call it. */
  readonly cpe?: string;
  readonly hashes?: readonly { readonly alg: 'SHA-512'; readonly content: string }[];
  readonly licenses?: readonly { readonly expression: string }[];
  /** Which of our artefacts it is in, where it is not in all of them. */
  readonly properties?: readonly { readonly name: string; readonly value: string }[];
}

/** The packages of npm in these folders, which are relative to `root`, with the hashes that the lockfile has. */
export function npmComponents(root: string, folders: readonly string[]): Component[] {
  const lock: { packages: Record<string, { integrity?: string }> } = JSON.parse(
    readFileSync(join(root, 'package-lock.json'), 'utf8'),
  );
  return folders.map((folder) => {
    const { name, version, license }: { name: string; version: string; license?: string } = JSON.parse(
      readFileSync(join(root, folder, 'package.json'), 'utf8'),
    );
    // node_modules may be a link to another folder's.
    const key = folder.slice(folder.indexOf('node_modules/'));
    return npmComponent({ name, version, license, integrity: lock.packages[key]?.integrity });
  });
}

/** One package of npm. `integrity` as lockfiles have it: `sha512-` and base64. */
export function npmComponent(one: {
  readonly name: string;
  readonly version: string;
  readonly license: string | undefined;
  readonly integrity: string | undefined;
  readonly type?: 'library' | 'platform';
}): Component {
  const { name, version, license, integrity, type = 'library' } = one;
  const purl = `pkg:npm/${name.replace('@', '%40')}@${version}`;
  const sha512 = /^sha512-(\S+)$/.exec(integrity ?? '')?.[1];
  return {
    type,
    'bom-ref': purl,
    name,
    version,
    purl,
    ...(sha512 !== undefined && {
      hashes: [{ alg: 'SHA-512', content: Buffer.from(sha512, 'base64').toString('hex') }],
    }),
    ...(license !== undefined && { licenses: [{ expression: license }] }),
  };
}

/** A bill of materials in CycloneDX 1.5. The same components give the same text. */
export function bill(version: string, components: readonly Component[]): string {
  const sorted = components.toSorted((a, b) => (a['bom-ref'] < b['bom-ref'] ? -1 : 1));
  const hash = createHash('sha256')
    .update(JSON.stringify([version, sorted]))
    .digest('hex');
  const uuid = /^(.{8})(.{4}).(.{3}).(.{3})(.{12})/.exec(hash)?.slice(1) ?? [];
  return `${JSON.stringify(
    {
      bomFormat: 'CycloneDX',
      specVersion: '1.5',
      // A UUID of version 8: made of the content.
      serialNumber: `urn:uuid:${uuid[0]}-${uuid[1]}-8${uuid[2]}-8${uuid[3]}-${uuid[4]}`,
      version: 1,
      metadata: {
        component: {
          type: 'application',
          'bom-ref': 'flanneld-ts',
          name: 'flanneld-ts',
          version,
          licenses: [{ expression: 'Apache-2.0' }],
        },
      },
      components: sorted,
      dependencies: [{ ref: 'flanneld-ts', dependsOn: sorted.map((one) => one['bom-ref']) }],
    },
    undefined,
    1,
  )}\n`;
}
