// Whether the dashboards are what Grafana's own types ask for: keys, enums and types of each dashboard, and of each
// panel's options and field settings by its kind. tsc judges, against @grafana/schema.
//   node types.mjs DIR    DIR/node_modules holds what package.json names
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const packages = process.argv[2];
const dashboards = join(dirname(fileURLToPath(import.meta.url)), '../dashboards');

// Where @grafana/schema has a panel's types, by its kind, and whether it has field settings of its own.
const kinds = {
  heatmap: { file: 'HeatmapPanelCfg', fields: true },
  stat: { file: 'StatPanelCfg', fields: false },
  table: { file: 'TablePanelCfg', fields: true },
  timeseries: { file: 'TimeSeriesPanelCfg', fields: true },
};

// JSON has the values of enums, not their names.
const head = `
type Plain<T> = T extends string ? \`\${T}\` : T extends (infer U)[] ? Plain<U>[]
  : T extends object ? { [K in keyof T]: Plain<T[K]> } : T;
import type { Dashboard } from '@grafana/schema';
${Object.entries(kinds)
  .map(([kind, { file, fields }]) => {
    const from = `@grafana/schema/dist/esm/raw/composable/${kind}/panelcfg/x/${file}_types.gen`;
    return `import type * as ${kind} from '${from}';
type ${kind}_options = Plain<${kind}.Options>;
type ${kind}_fields = ${fields ? `Plain<${kind}.FieldConfig>` : 'Record<string, never>'};`;
  })
  .join('\n')}
`;

// Settings that an override has for single fields: its identifier begins with "custom.".
function overridden(panel) {
  const properties = (panel.fieldConfig.overrides ?? []).flatMap((override) => override.properties);
  const own = properties.filter(({ id }) => id.startsWith('custom.') && !id.slice(7).includes('.'));
  return own.map(({ id, value }) => ({ [id.slice(7)]: value }));
}

// The TypeScript of a dashboard: its own text, so that lines are the file's, then what is asked of it.
function checked(text, at) {
  const pieces = [`export const dashboard = ${text.trimEnd()} satisfies Plain<Dashboard>;`, head];
  const places = [];
  const ask = (place, value, type) => {
    pieces.push(`(${JSON.stringify(value)}) satisfies ${type};`);
    places.push(`${at}, ${place}`);
  };
  for (const panel of JSON.parse(text).panels) {
    if (panel.type === 'row') continue;
    if (!(panel.type in kinds)) throw new Error(`${at}, "${panel.title}": no types are known here for a panel "${panel.type}"`);
    ask(`options of "${panel.title}"`, panel.options, `${panel.type}_options`);
    ask(`fields of "${panel.title}"`, panel.fieldConfig.defaults.custom ?? {}, `${panel.type}_fields`);
    for (const custom of overridden(panel)) ask(`override of "${panel.title}"`, custom, `Partial<${panel.type}_fields>`);
  }
  return { source: pieces.join('\n'), places };
}

// What tsc says of a file, at the places of the dashboard.
function translate(output, name, { source, places }) {
  const first = source.split('\n').length - places.length;
  return output.replaceAll(new RegExp(`^.*${name}\\.ts\\((\\d+),\\d+\\)`, 'gm'), (_all, line) =>
    line > first ? places[line - first - 1] : `${name}.json, line ${line}`,
  );
}

const work = mkdtempSync(join(packages, 'check-'));
try {
  const files = readdirSync(dashboards).filter((file) => file.endsWith('.json'));
  const names = files.map((file) => basename(file, '.json'));
  const all = names.map((name) => checked(readFileSync(join(dashboards, `${name}.json`), 'utf8'), `${name}.json`));
  names.forEach((name, i) => writeFileSync(join(work, `${name}.ts`), all[i].source));
  const strict = ['--noEmit', '--strict', '--skipLibCheck', '--module', 'nodenext', '--moduleResolution', 'nodenext'];
  const tsc = join(packages, 'node_modules/typescript/bin/tsc');
  try {
    execFileSync(process.execPath, [tsc, ...strict, ...names.map((name) => `${name}.ts`)], { cwd: work, encoding: 'utf8' });
    const asked = all.reduce((sum, { places }) => sum + places.length, 0);
    console.log(`${names.length} dashboards, ${asked} options and field settings: as Grafana's types ask`);
  } catch (error) {
    let said = error.stdout || String(error);
    names.forEach((name, i) => (said = translate(said, name, all[i])));
    console.error(said);
    process.exitCode = 1;
  }
} finally {
  rmSync(work, { recursive: true });
}
