// Edges of JavaScript and TypeScript files by the TypeScript compiler's own resolution.
//
//     node _edges.js TYPESCRIPT FOLDER < list of paths > edges, one "importer\timported" a line
//
// The options of a file are those of the nearest tsconfig.json or jsconfig.json above it. Of
// a `.d.ts` with a `.js` beside it, a JavaScript importer gets the `.js`.
const fs = require("fs");
const path = require("path");
const ts = require(process.argv[2]);

const root = fs.realpathSync(process.argv[3]);
const files = fs.readFileSync(0, "utf8").split("\n").filter(Boolean);
const known = new Set(files);
const loaded = new Map();

// Packages of this repository by name, and what a package manager links for each: the
// package itself, what it depends on, and all of them where the root has workspaces.
const packages = new Map();
const manifests = new Map();
for (const folder of new Set(files.flatMap((file) => above(path.dirname(file))))) {
  const file = path.join(root, folder, "package.json");
  if (!fs.existsSync(file)) continue;
  try {
    const said = JSON.parse(fs.readFileSync(file, "utf8"));
    const name = said.name;
    manifests.set(folder, said);
    if (name && !packages.has(name)) packages.set(name, path.join(root, folder));
  } catch {}
}

function above(folder) {
  return folder === "." ? ["."] : [folder, ...above(path.dirname(folder))];
}

let importer = "";

function canSee(name) {
  const chain = above(path.dirname(importer)).filter((folder) => manifests.has(folder));
  if (!chain.length || manifests.get(chain[0]).name === name) return true;
  return chain.some((folder) => {
    const said = manifests.get(folder);
    if (said.workspaces) return true;
    const kinds = ["dependencies", "devDependencies", "peerDependencies", "optionalDependencies"];
    return kinds.some((kind) => said[kind] && name in said[kind]);
  });
}

// An entry point that is not built yet: the source of the same name.
function unbuilt(specifier) {
  const found = /^((?:@[^/]+\/)?[^/]+)(?:\/(.*))?$/.exec(specifier);
  const folder = found && packages.get(found[1]);
  if (!folder || !canSee(found[1])) return undefined;
  const said = manifests.get(path.relative(root, folder) || ".");
  const key = found[2] ? "./" + found[2] : ".";
  let entry = said.exports && (said.exports[key] || (key === "." && said.exports));
  while (entry && typeof entry === "object") entry = Object.values(entry).find(Boolean);
  entry = entry || (found[2] ? undefined : said.module || said.main || said.types);
  if (typeof entry !== "string") return undefined;
  const inside = entry.replace(/^\.\//, "").replace(/^(?:(?:dist|lib|build|esm|cjs)\/)+/, "");
  const stem = inside.replace(/\.d\.[cm]?ts$|\.[cm]?js$/, "");
  for (const base of ["src/" + stem, stem, "src/" + stem + "/index"]) {
    for (const ending of [".ts", ".tsx", ".mts", ".cts", ".js", ".mjs"]) {
      const file = path.relative(root, path.join(folder, base + ending));
      if (known.has(file)) return file;
    }
  }
  return undefined;
}

// `node_modules/NAME/...` seen from anywhere is the package of that name.
function linked(file) {
  const found = /^(.*)\/node_modules\/((?:@[^/]+\/)?[^/]+)(\/.*)?$/.exec(file);
  const folder = found && canSee(found[2]) && packages.get(found[2]);
  return folder ? folder + (found[3] || "") : file;
}

const host = {
  fileExists: (file) => ts.sys.fileExists(linked(file)),
  readFile: (file) => ts.sys.readFile(linked(file)),
  directoryExists: (folder) =>
    ts.sys.directoryExists(linked(folder)) || folder.endsWith("/node_modules"),
  realpath: (file) => linked(file),
  getCurrentDirectory: () => root,
};

function options(file) {
  for (const folder of above(path.dirname(file))) {
    for (const name of ["tsconfig.json", "jsconfig.json"]) {
      const config = path.join(root, folder, name);
      if (!fs.existsSync(config)) continue;
      if (!loaded.has(config)) {
        const { config: json } = ts.readConfigFile(config, ts.sys.readFile);
        const parsed = ts.parseJsonConfigFileContent(json || {}, ts.sys, path.dirname(config));
        loaded.set(config, parsed.options);
      }
      return loaded.get(config);
    }
  }
  return {};
}

// What a file names in import, export, import type, import = require, import() and require().
function specifiers(file) {
  const found = new Set();
  const kind = /x$/.test(file) || /\.[cm]?js$/.test(file) ? ts.ScriptKind.TSX : undefined;
  const tree = ts.createSourceFile(file, fs.readFileSync(file, "utf8"), 99, true, kind);
  const visit = (node) => {
    let string = node.moduleSpecifier;
    if (ts.isExternalModuleReference(node)) string = node.expression;
    if (ts.isImportTypeNode(node)) string = node.argument.literal;
    if (ts.isCallExpression(node)) {
      const name = node.expression;
      const loads = name.kind === ts.SyntaxKind.ImportKeyword || name.text === "require";
      if (loads) string = node.arguments[0];
    }
    if (string && ts.isStringLiteralLike(string)) found.add(string.text);
    ts.forEachChild(node, visit);
  };
  visit(tree);
  return found;
}

for (const file of files) {
  const whole = path.join(root, file);
  importer = file;
  const own = { ...options(file), allowJs: true, resolveJsonModule: false };
  if (own.moduleResolution === undefined || own.moduleResolution < 3) {
    own.moduleResolution = ts.ModuleResolutionKind.Bundler;
  }
  const script = /\.[cm]?jsx?$/.test(file);
  for (const fileName of specifiers(whole)) {
    const { resolvedModule } = ts.resolveModuleName(fileName, whole, own, host);
    let target = resolvedModule
      ? path.relative(root, linked(resolvedModule.resolvedFileName))
      : unbuilt(fileName);
    if (!target) continue;
    if (script && /\.d\.[cm]?ts$/.test(target)) {
      const stem = target.replace(/\.d\.[cm]?ts$/, "");
      target =
        [".js", ".jsx", ".mjs", ".cjs"].map((e) => stem + e).find((f) => known.has(f)) || target;
    }
    if (known.has(target) && target !== file) console.log(`${file}\t${target}`);
  }
}
