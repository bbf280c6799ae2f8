// Run All in a real JupyterLab in a real browser, with pictures of what a reader sees.
//
//     node run_all.mjs ADDRESS_OF_A_NOTEBOOK CHROMIUM START_OF_THE_PICTURES'_NAMES
//
// `tests/optional/jupyterlab.py` starts JupyterLab for it. Needs playwright-core beside it.
import { chromium } from "playwright-core";

const [address, executablePath, pictures] = process.argv.slice(2);
const HOUR = 3600000;
const browser = await chromium.launch({ executablePath, args: ["--no-sandbox"] });
const page = await browser.newPage({ viewport: { width: 1100, height: 900 } });
page.setDefaultTimeout(120000);
await page.goto(address);
await page.locator(".jp-Notebook .jp-Cell").first().waitFor();
// Before the kernel is there, JupyterLab would ask which one to use.
await page.waitForFunction(
  () => window.jupyterapp.shell.currentWidget?.sessionContext?.session?.kernel?.status === "idle"
);
await page.getByRole("menuitem", { name: "Run", exact: true }).click();
await page.getByRole("menuitem", { name: "Run All Cells", exact: true }).click();
// After a cell that fails and must not, JupyterLab runs no other.
await page.waitForFunction(
  () => {
    const panel = window.jupyterapp.shell.currentWidget;
    const code = panel.content.widgets.filter(cell => cell.model.type === "code");
    const failed = code.some(
      cell =>
        !(cell.model.getMetadata("tags") ?? []).includes("raises-exception") &&
        cell.model.outputs.toJSON().some(output => output.output_type === "error")
    );
    const kernel = panel.sessionContext.session?.kernel;
    const last = code.at(-1).model.executionCount;
    return kernel?.status === "idle" && (failed || last !== null);
  },
  null,
  { timeout: 2 * HOUR, polling: 1000 }
);
await page.evaluate(() => window.jupyterapp.commands.execute("docmanager:save"));
const cells = await page.evaluate(() => {
  const { content } = window.jupyterapp.shell.currentWidget;
  return content.widgets
    .map((cell, place) => [cell, place])
    .filter(([cell]) => cell.model.type === "code" && cell.model.outputs.length)
    .map(([, place]) => place);
});
for (const place of cells) {
  await page.evaluate(async cell => {
    const { content } = window.jupyterapp.shell.currentWidget;
    content.activeCellIndex = cell;
    await content.scrollToItem(cell, "start");
  }, place);
  await page.waitForTimeout(500);
  await page.screenshot({ path: `${pictures}-${String(place).padStart(2, "0")}.png` });
}
await browser.close();
