import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

interface PackageJson {
  readonly name: string;
  readonly version: string;
  readonly license?: string;
}

/** The folders of the packages whose code is in the bundle or beside it. `inputs` are the files that were bundled, relative to the root. */
export function shippedPackages(inputs: readonly string[], beside: readonly string[]): readonly string[] {
  const bundled = inputs.map(packageFolder).filter((folder) => folder !== undefined);
  return [...new Set([...bundled, ...beside])].toSorted();
}

/** What has to travel with copies of the program: our licence, then that of each package, with its text. */
export function licenses(root: string, folders: readonly string[]): string {
  const parts = folders.map((folder) => notice(join(root, folder)));
  return [readFileSync(join(root, 'LICENSE'), 'utf8'), ...parts].join(`\n${'-'.repeat(80)}\n\n`);
}

/** `node_modules/a/node_modules/@b/c/lib/d.js` belongs to `node_modules/a/node_modules/@b/c`. */
function packageFolder(file: string): string | undefined {
  return /^.*node_modules\/(?:@[^/]+\/)?[^/]+/.exec(file)?.[0];
}

function notice(folder: string): string {
  const { name, version, license }: PackageJson = JSON.parse(
    readFileSync(join(folder, 'package.json'), 'utf8'),
  );
  const file = readdirSync(folder).find((entry) => /^(licen[cs]e|copying)/i.test(entry));
  const text = file === undefined ? fallback(folder) : readFileSync(join(folder, file), 'utf8');
  if (text === undefined && license === undefined) throw new Error(`${name} says nothing of its licence`);
  return `${name} ${version} (${license ?? 'see below'})\n\n${text ?? 'The package names its licence, and holds no text of it.\n'}`;
}

/** koffi's native libraries are packages of their own without a text; it lies in koffi itself. */
function fallback(folder: string): string | undefined {
  const koffi = join(folder, '../../koffi/LICENSE.txt');
  return folder.includes('@koromix') && existsSync(koffi) ? readFileSync(koffi, 'utf8') : undefined;
}
