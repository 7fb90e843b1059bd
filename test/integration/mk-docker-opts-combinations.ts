/** Every combination of options, masquerading and an earlier value, with the bytes that are due. */
export function combinations() {
  return ['', '-i', '-c', '-i -c'].flatMap((forms) =>
    [false, true].flatMap((withoutMasq) =>
      ['DOCKER_OPTS', 'DOCKER_NETWORK_OPTIONS'].flatMap((key) =>
        ['', '--debug'].flatMap((earlier) =>
          ['true', 'false', undefined].map((ipMasq) =>
            combination({ forms: forms.split(' ').filter(Boolean), withoutMasq, key, earlier, ipMasq }),
          ),
        ),
      ),
    ),
  );
}

interface Combination {
  readonly forms: readonly string[];
  readonly withoutMasq: boolean;
  readonly key: string;
  readonly earlier: string;
  readonly ipMasq: string | undefined;
}

function combination({ forms, withoutMasq, key, earlier, ipMasq }: Combination) {
  const masquerade =
    withoutMasq || ipMasq === undefined ? [] : [['IPMASQ', `--ip-masq=${ipMasq !== 'true'}`]];
  const options = [['BIP', '--bip=172.20.91.1/24'], ...masquerade, ['MTU', '--mtu=1500']];
  const individual = options.map(([name, value]) => `DOCKER_OPT_${name}="${value}"\n`);
  const all = options.map(([, value]) => ` ${value}`).join('');
  const combined = `${key}="${earlier === '' ? '' : `${earlier} `}${all}"\n`;
  const both = forms.length === 0;
  const args = [...forms, ...(withoutMasq ? ['-m'] : []), ...(key === 'DOCKER_OPTS' ? [] : ['-k', key])];
  return {
    label: `${args.join(' ') || '(no option)'}, FLANNEL_IPMASQ=${ipMasq ?? '(absent)'}, ${key}="${earlier}"`,
    args,
    env: earlier === '' ? {} : { [key]: earlier },
    subnetEnv: `FLANNEL_SUBNET=172.20.91.1/24\nFLANNEL_MTU=1500\n${ipMasq === undefined ? '' : `FLANNEL_IPMASQ=${ipMasq}\n`}`,
    expected: `${both || forms.includes('-i') ? individual.join('') : ''}${both || forms.includes('-c') ? combined : ''}`,
  };
}
