import { join } from 'node:path';
import { arch } from 'node:process';
import { describe, expect, it } from 'vitest';
import { licenses, shippedPackages } from '../../script/licenses.ts';

const root = join(import.meta.dirname, '../..');

describe('the licences that travel with the program', () => {
  const library = `node_modules/@koromix/koffi-linux-${arch}`;
  const inputs = [
    'src/ip/ip.ts',
    'node_modules/etcd3/lib/rpc.js',
    'node_modules/@grpc/grpc-js/build/src/index.js',
  ];
  const text = licenses(root, shippedPackages([...inputs, 'node_modules/etcd3/lib/client.js'], [library]));

  it('begin with our own', () => {
    expect(text.trimStart()).toMatch(/^Apache License\s+Version 2\.0/);
  });

  it.each(['etcd3', '@grpc/grpc-js', `@koromix/koffi-linux-${arch}`])(
    'name %s once, with its text',
    (name) => {
      const parts = text.split('-'.repeat(80)).filter((part) => part.trimStart().startsWith(`${name} `));
      expect(parts).toHaveLength(1);
      expect(parts[0]).toMatch(/copyright/i);
    },
  );
});
