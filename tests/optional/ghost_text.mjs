// Type in a real JupyterLab in a real browser: ghost text grows, is accepted by Tab, and the
// status bar says what the model is doing.
//
//     node ghost_text.mjs ADDRESS_OF_A_FOLDER CHROMIUM SCREENSHOT TOKEN
//
// `make test-jupyterlab` starts JupyterLab for it. Needs playwright-core beside it.
import assert from "node:assert";
import { chromium } from "playwright-core";

const [folder, executablePath, screenshot, token] = process.argv.slice(2);
const PASTED = "def mean(values):\n    total = sum(values)\n    return";
const TYPED = " total ";
const browser = await chromium.launch({ executablePath, args: ["--no-sandbox"] });
const page = await browser.newPage({ viewport: { width: 1000, height: 600 } });
page.setDefaultTimeout(200000);
const errors = [];
page.on("pageerror", error => errors.push(error.message));
const asked = []; // the bodies of requests
page.on("request", request => {
  if (request.url().includes("/codegemma/complete") && request.method() === "POST") {
    asked.push(request.postDataJSON());
  }
});
const ghost = page.locator(".jp-GhostText").first();
const status = page.locator(".codegemma-status");
const idle = page.locator(".codegemma-status[data-state=idle]");

const open = name => page.goto(`${folder}/${name}?token=${token}`);

// Every text that the ghost has shown.
async function watch() {
  await page.evaluate(() => {
    window.shown = [];
    window.states = [];
    new MutationObserver(() => {
      const ghost = document.querySelector(".jp-GhostText");
      window.shown.push(ghost ? ghost.textContent : "");
      window.states.push(document.querySelector(".codegemma-status").dataset.state);
    }).observe(document.body, { subtree: true, childList: true, attributes: true, characterData: true });
  });
}

async function notebook() {
  await open("cells.ipynb");
  const cell = page.locator(".jp-Notebook .jp-CodeCell").last();
  await cell.locator(".cm-content").click();
  await watch();
  await page.keyboard.insertText(PASTED); // As it is: JupyterLab may indent what is typed.
  await page.keyboard.type(TYPED, { delay: 60 });
  // The first completion waits for the model.
  await ghost.waitFor();
  await idle.waitFor();
  const shown = (await ghost.innerText()).trimEnd();
  await page.screenshot({ path: screenshot });
  const { shown: texts, states } = await page.evaluate(() => ({ shown, states }));
  assert.ok(states.includes("loading") && states.includes("completing"), String(new Set(states)));
  const grown = new Set(texts.map(text => text.trimEnd()).filter(text => shown.startsWith(text)));
  assert.ok(grown.size > 2, `the text came at once: ${JSON.stringify([...grown])}`);
  await page.keyboard.press("Tab");
  await page.waitForFunction(
    text => document.querySelector(".jp-Notebook .jp-CodeCell:last-child .cm-content")
      .innerText.replace(/\s/g, "").includes(text),
    ("returntotal" + shown).replace(/\s/g, "")
  );
  const body = asked.at(-1);
  assert.equal(body.path, "cells.py");
  assert.deepEqual(body.above, ["import statistics\n", "%%bash\necho 'it\n"]);
  console.log(`ghost text, accepted: ${JSON.stringify(shown)}, in ${grown.size} pieces or fewer`);
}

// Prose gets no code.
async function markdown() {
  const before = asked.length;
  await page.locator(".jp-Notebook .jp-MarkdownCell").first().dblclick();
  await page.keyboard.type("The mean of ", { delay: 30 });
  await page.keyboard.press("Alt+\\");
  await page.locator(".jp-Notebook .jp-CodeCell .cm-content").last().click();
  await page.keyboard.press("End");
  await page.keyboard.press("Alt+\\");
  while (asked.length === before) {
    await page.waitForEvent("request");
  }
  for (const body of asked.slice(before)) {
    assert.ok(!body.prefix.includes("The mean of"), body.prefix);
  }
}

// A file has its own path, and letters outside of the basic plane count as the editor's do.
async function file() {
  await open("package/area.py");
  await page.locator(".jp-FileEditor .cm-content").click();
  await page.keyboard.press("Control+End");
  await page.keyboard.type("return ", { delay: 30 });
  await ghost.waitFor();
  await idle.waitFor();
  const body = asked.at(-1);
  assert.equal(body.path, "package/area.py");
  assert.ok(body.prefix.endsWith("return ") && body.prefix.startsWith("# 😀"), body.prefix);
  assert.equal(body.suffix, "");
}

// What an administrator offers can be chosen; what cannot be loaded is said.
async function settings() {
  await status.click();
  const model = page.locator("input[id$='_codegemma_model']");
  // JupyterLab saves a moment after the last key, and a page that is left saves nothing.
  const saved = page.waitForResponse(
    answer => answer.url().includes("/api/settings/") && answer.request().method() === "PUT"
  );
  await model.fill("nothing_of_this_name");
  await model.blur();
  assert.ok((await saved).ok(), "the settings were not saved");
  await page.screenshot({ path: screenshot.replace(/\.png$/, "_settings.png") });
  await open("package/area.py");
  await page.locator(".jp-FileEditor .cm-content").click();
  await page.keyboard.press("Control+End");
  await page.keyboard.type("x", { delay: 30 });
  const error = page.locator(".codegemma-status[data-state=error]");
  await error.waitFor();
  const said = await error.getAttribute("title");
  assert.match(said, /nothing_of_this_name/);
  console.log(`a wrong model: ${said}`);
}

try {
  await notebook();
  await markdown();
  await file();
  await settings();
} catch (error) {
  console.log("states:", await page.evaluate(() => String(window.states)));
  console.log("status:", await status.getAttribute("title"), errors, asked);
  await page.screenshot({ path: screenshot });
  throw error;
}
assert.deepEqual(errors, []);
await browser.close();
