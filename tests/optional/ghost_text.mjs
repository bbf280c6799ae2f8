// Type in a real JupyterLab in a real browser, see ghost text, accept it by Tab.
//
//     node ghost_text.mjs ADDRESS_OF_A_NOTEBOOK CHROMIUM SCREENSHOT
//
// `make test-jupyterlab` starts JupyterLab for it. Needs playwright-core beside it.
import { chromium } from "playwright-core";

const [address, executablePath, screenshot] = process.argv.slice(2);
const PASTED = "def mean(values):\n    total = sum(values)\n    return";
const TYPED = " total ";
const browser = await chromium.launch({ executablePath, args: ["--no-sandbox"] });
const page = await browser.newPage({ viewport: { width: 1000, height: 600 } });
page.setDefaultTimeout(240000);
await page.goto(address);
const cell = page.locator(".jp-Notebook .jp-CodeCell").last();
await cell.locator(".cm-content").click();
await page.keyboard.insertText(PASTED); // As it is: JupyterLab may indent what is typed.
await page.keyboard.type(TYPED, { delay: 60 });
// The first completion waits for the model; JupyterLab gives up after five seconds.
const ghost = page.locator(".jp-GhostText").first();
for (let tries = 0; tries < 40 && !(await ghost.isVisible()); tries++) {
  await page.keyboard.press("Alt+\\");
  await ghost.waitFor({ timeout: 6000 }).catch(() => {});
}
const shown = await ghost.innerText();
await page.screenshot({ path: screenshot });
await page.keyboard.press("Tab");
await page.waitForFunction(
  text => document.querySelector(".jp-Notebook .jp-CodeCell:last-child .cm-content")
    .innerText.replace(/\s/g, "").includes(text),
  ("returntotal" + shown).replace(/\s/g, "")
);
console.log(`ghost text, accepted: ${JSON.stringify(shown)}`);
await browser.close();
