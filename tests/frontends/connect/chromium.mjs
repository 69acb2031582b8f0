// A visit in Chromium, on the page that Next.js serves: `node chromium.mjs <page> <login> <api> <expired>`
import { open } from "../../../frontend/e2e/person.mjs";
import { visit } from "./visit.mjs";

const [page, login, api, expired] = process.argv.slice(2);
const browser = await open();
const tab = await browser.newPage();
await tab.goto(page);
await tab.waitForFunction(() => "tasks" in globalThis);
console.log(JSON.stringify(await tab.evaluate(visit, { login, api, expired })));
await browser.close();
