import { basename, dirname } from 'node:path';
import { blocks, changes, type FoundFlanneld, type FoundUnit, found, same, type Verdict } from './found.ts';

/** Files by which Docker gets what flanneld or flanneld-ts says: of CentOS's package, by hand, and by ours. */
const ofFlannel = ['/run/flannel/docker', '/run/flannel/subnet.env', '/run/docker_opts.env'];

/** flanneld's process, its unit and Docker's: what is there, and what a change to flanneld-ts makes of it. */
export function hostVerdicts(host: FoundFlanneld): readonly Verdict[] {
  const { unit, docker, subnetFile, unreadable } = host;
  return [
    ...processVerdicts(host),
    ...(unit === undefined ? [] : unitVerdicts(unit)),
    subnetFile.text === undefined
      ? found(`${subnetFile.path} is not there: flanneld has not been ready since the boot`)
      : found(
          `${subnetFile.path}: ${subnetFile.text
            .trim()
            .split(/\s*\n\s*/)
            .join(' ')}`,
        ),
    ...(docker === undefined ? [found('Docker has no unit on this host')] : dockerVerdicts(docker, host)),
    ...unreadable.map((file) => blocks(`cannot read ${file}`, 'Run this as root.')),
  ];
}

function processVerdicts({ processes, unit, line }: FoundFlanneld): readonly Verdict[] {
  const others = processes.filter(({ name }) => name === 'flanneld');
  const [running, ...more] = others;
  const ours = processes.filter(({ name }) => name === 'flanneld-ts');
  const verdicts: Verdict[] = ours.map(({ pid }) => found(`flanneld-ts runs already (pid ${pid})`));
  if (running === undefined) {
    if (ours.length > 0) return verdicts;
    if (unit === undefined)
      return [...verdicts, found('no flanneld on this host: neither a process nor a unit')];
    return [
      ...verdicts,
      line === undefined
        ? changes(
            `flanneld does not run, and ${unit.name} does not say in its own words how it is started: its flags are not checked`,
            'Start flanneld, and run this again.',
          )
        : found(`flanneld does not run; its flags are those of ${unit.name}`),
    ];
  }
  const { pid, isInContainer, env } = running;
  verdicts.push(found(`flanneld runs (pid ${pid}${running.unit === undefined ? '' : `, ${running.unit}`})`));
  if (env === undefined)
    verdicts.push(
      blocks(`the variables of flanneld (pid ${pid}) may be read by root alone`, 'Run this as root.'),
    );
  if (isInContainer)
    verdicts.push(
      blocks(
        `flanneld (pid ${pid}) runs in a container, whoever starts it would start it again beside flanneld-ts`,
        "Stop that container for good, and start flanneld-ts in its place: README, 'As a container'.",
      ),
    );
  else if (unit === undefined)
    verdicts.push(
      changes(
        'no unit of systemd starts flanneld: what starts it has to start flanneld-ts',
        'script/install puts flanneld-ts and a unit in place; give its FLANNEL_OPTIONS the flags below.',
      ),
    );
  if (more.length > 0)
    verdicts.push(
      changes(
        `further flannelds run on this host (pid ${more.map((one) => one.pid).join(', ')}): only the flags of pid ${pid} are checked`,
        'Give each flanneld-ts files of its own: --subnet-file and --docker-opts-file.',
      ),
    );
  return verdicts;
}

function unitVerdicts({ name, paths, start, startPost, environmentFiles }: FoundUnit): readonly Verdict[] {
  const verdicts: Verdict[] = [found(`${name}: ${paths.join(', ')}`)];
  for (const { path, isOptional, exists } of environmentFiles) {
    if (exists) verdicts.push(same(`${path}, which ${name} reads`));
    else if (!isOptional)
      verdicts.push(
        blocks(`${path} is missing, and ${name} does not start without it`, `Make it: touch ${path}`),
      );
  }
  const [program = ''] = start[0] ?? [];
  if (['flanneld', 'flanneld-start'].includes(basename(program))) {
    const place = dirname(program) === '/usr/bin' ? '' : `PREFIX=${dirname(dirname(program))} `;
    verdicts.push(
      same(
        `${name} starts ${program}`,
        `The unit stays as it is: ${place}script/install --as-flanneld exchanges the program.`,
      ),
    );
  } else if (basename(program) !== 'flanneld-ts')
    verdicts.push(
      changes(
        `${name} starts flanneld by way of ${program || 'nothing'}, which script/install --as-flanneld does not exchange`,
        'Use the unit of script/install; give its FLANNEL_OPTIONS the flags below.',
      ),
    );
  for (const [post = ''] of startPost)
    if (basename(post) === 'mk-docker-opts.sh')
      verdicts.push(same(`${name} writes Docker's options with ${post}, which is exchanged, too`));
  return verdicts;
}

function dockerVerdicts(
  { environmentFiles, paths }: FoundUnit,
  { isRequiredByDocker, unit }: FoundFlanneld,
): readonly Verdict[] {
  const read = environmentFiles.filter(({ path }) => ofFlannel.includes(path));
  const verdicts: Verdict[] = [found(`docker.service: ${paths.join(', ')}`)];
  if (read.length === 0)
    verdicts.push(
      changes(
        `docker.service reads none of ${ofFlannel.join(', ')}: nothing there gives Docker this host's subnet`,
        'Check how Docker gets --bip. script/install puts a drop-in for that in place.',
      ),
    );
  for (const { path, isOptional } of read)
    verdicts.push(
      same(
        `Docker reads ${path}${isOptional ? ', and starts without it' : ''}`,
        path === '/run/docker_opts.env'
          ? 'flanneld-ts writes it itself.'
          : 'With script/install --as-flanneld. The unit and drop-in of script/install have Docker read /run/docker_opts.env.',
      ),
    );
  if (isRequiredByDocker && unit !== undefined) {
    const name = unit.name.replace(/\.service$/, '');
    verdicts.push(
      changes(
        `docker.service requires ${unit.name}: a plain restart of ${name} restarts Docker and all containers`,
        `Restart it so: systemctl disable ${name}; systemctl restart ${name}; systemctl enable ${name}`,
      ),
    );
  }
  return verdicts;
}
