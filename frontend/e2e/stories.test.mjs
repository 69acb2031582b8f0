// What does a person experience? Each story is a real browser on the whole application.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { after } from "node:test";
import { BACKEND, FRONTEND, FRONTEND_HS256, goHome, order, story, until } from "./person.mjs";

after(goHome);

const AXE = readFileSync(new URL("../node_modules/axe-core/axe.min.js", import.meta.url), "utf8");
const TASKS = [
  ["Renew the passport"],
  ["Water the plants"],
  ["Return the library books", "Two of them are Saskia’s."],
  ["Book the train to Ghent", "Friday after work, back on Sunday evening. A window seat, if there is one."],
  ["Call Grandma"],
];

const part = (token, index) => JSON.parse(Buffer.from(token.split(".")[index], "base64url").toString());
const header = (token) => part(token, 0);
const claims = (token) => part(token, 1);

/** The field is marked as wrong, and the reason belongs to it. */
async function described(field, reason) {
  await until(async () => (await field.getAttribute("aria-invalid")) === "true");
  const id = await field.getAttribute("aria-describedby");
  assert.match(await field.page().locator(`[id="${id}"]`).innerText(), reason);
}

story("a list survives a reload, and its tasks are edited, completed and deleted", async (arrive) => {
  const ada = await arrive();
  const { page } = ada;
  await ada.signUpByHand();
  await ada.reads("Nothing to do yet");
  await ada.add("Buy milk", "Two bottles");
  await ada.add("Call the plumber");

  await page.reload();
  await ada.sees("Call the plumber", "Buy milk");
  await ada.reads("Two bottles");

  await page.getByRole("button", { name: "Edit “Buy milk”" }).click();
  await page.getByLabel("Title").fill("Buy oat milk");
  assert.equal(await ada.answered("PUT", () => page.getByRole("button", { name: "Save" }).click()), 200);
  await ada.sees("Call the plumber", "Buy oat milk");

  assert.equal(await ada.answered("PATCH", () => ada.task("Buy oat milk").click()), 200);
  await ada.sees("Call the plumber", "✓ Buy oat milk");
  for (const [name, ...titles] of [["Done 1", "✓ Buy oat milk"], ["Active 1", "Call the plumber"]]) {
    await page.getByRole("button", { name, exact: true }).click();
    await ada.sees(...titles);
  }
  await page.getByRole("button", { name: "All 2" }).click();

  await page.getByRole("button", { name: "Delete “Call the plumber”" }).click();
  await ada.sees("✓ Buy oat milk");
  await page.getByRole("button", { name: "Undo" }).click();
  await ada.sees("Call the plumber", "✓ Buy oat milk");
  const deletion = () => page.getByRole("button", { name: "Delete “Call the plumber”" }).click();
  assert.equal(await ada.answered("DELETE", deletion), 204);

  await page.reload();
  await ada.sees("✓ Buy oat milk");
});

story("two people never see each other's tasks", async (arrive) => {
  const ada = await arrive();
  const grace = await arrive();
  await ada.signUp("Ada");
  await grace.signUp("Grace");
  await ada.add("Ada's secret");
  await grace.add("Grace's secret");

  await Promise.all([ada.page.reload(), grace.page.reload()]);
  await ada.sees("Ada's secret");
  await grace.sees("Grace's secret");

  // The same browser, the other person: nothing of the first is left.
  await ada.page.getByRole("button", { name: "Sign out" }).click();
  await ada.page.getByRole("form", { name: "Sign in" }).waitFor();
  ada.email = grace.email;
  await ada.signIn();
  await ada.sees("Grace's secret");
});

story("an expired token is renewed without a word", async (arrive) => {
  const ada = await arrive({ at: FRONTEND_HS256 });
  await ada.signUp();
  const expired = await ada.token();
  const statuses = [];
  ada.page.on("response", (answer) => statuses.push(answer.status()));
  ada.expect(/401/);
  await until(() => Date.now() / 1000 > claims(expired).exp + 1);
  // The page renews its token by itself, so an old one must be put into its hand.
  let given = false;
  await ada.page.route("**/api/auth/token", (route) => {
    if (given) return route.continue();
    given = true;
    return route.fulfill({ json: { token: expired } });
  });

  await ada.add("Buy milk");

  await until(() => statuses.includes(201));
  assert.equal(statuses.filter((status) => status === 401).length, 1);
  await ada.sees("Buy milk");
});

story("a session that has ended asks for the password and keeps what was typed", async (arrive) => {
  const ada = await arrive({ at: FRONTEND_HS256 });
  const { page } = ada;
  await ada.signUp();
  await ada.add("Buy milk");
  const token = await ada.token();
  await page.context().clearCookies();
  await until(() => Date.now() / 1000 > claims(token).exp + 1);
  ada.expect(/401/);

  await page.getByLabel("New task").fill("Half a thought");
  await page.getByLabel("Details").fill("and more");
  await page.getByRole("button", { name: "Add", exact: true }).click();
  await ada.reads("Your session has ended. Please sign in again");
  await ada.signIn();

  await ada.sees("Buy milk");
  assert.equal(await page.getByLabel("New task").inputValue(), "Half a thought");
  assert.equal(await page.getByLabel("Details").inputValue(), "and more");
});

story("a token that is refused twice leads to the sign-in, and one more attempt is not made", async (arrive) => {
  const ada = await arrive({ at: FRONTEND_HS256 });
  await ada.signUp();
  const expired = await ada.token();
  await until(() => Date.now() / 1000 > claims(expired).exp + 1);
  ada.expect(/401/);
  await ada.page.route("**/api/auth/token", (route) => route.fulfill({ json: { token: expired } }));
  let refusals = 0;
  ada.page.on("response", (answer) => answer.status() === 401 && refusals++);

  await ada.page.getByLabel("New task").fill("Buy milk");
  await ada.page.getByRole("button", { name: "Add", exact: true }).click();
  await ada.reads("Your session has ended");

  assert.equal(refusals, 2);
});

story("the backend goes away and comes back while the page is open", async (arrive) => {
  const ada = await arrive();
  const { page } = ada;
  await ada.signUp();
  await ada.add("Buy milk");
  ada.expect(/ERR_CONNECTION_REFUSED|ERR_EMPTY_RESPONSE|ERR_CONNECTION_RESET/);

  await order("/backend/stop");
  await page.getByLabel("New task").fill("Water the plants");
  await page.getByLabel("Details").fill("All of them");
  await page.getByRole("button", { name: "Add", exact: true }).click();
  await ada.reads("Not saved. The server cannot be reached.");
  await ada.sees("Buy milk");
  assert.equal(await page.getByLabel("New task").inputValue(), "Water the plants");
  assert.equal(await page.getByLabel("Details").inputValue(), "All of them");

  await ada.task("Buy milk").click();
  await ada.reads("“Buy milk” was not changed. The server cannot be reached.");
  await ada.sees("Buy milk");
  await page.getByRole("button", { name: "Edit “Buy milk”" }).click();
  await page.getByLabel("Title").fill("Buy bread");
  await page.getByRole("button", { name: "Save" }).click();
  await page.getByRole("listitem").getByText("Not saved. The server cannot be reached.").waitFor();
  assert.equal(await page.getByLabel("Title").inputValue(), "Buy bread");

  await order("/backend/start");
  await page.getByText("Trying again").waitFor({ state: "detached" });
  await page.getByRole("button", { name: "Save" }).click();
  await ada.sees("Buy bread");
  await page.getByRole("button", { name: "Add", exact: true }).click();
  await ada.sees("Water the plants", "Buy bread");
});

story("the database goes away and comes back while the page is open", async (arrive) => {
  const ada = await arrive();
  const { page } = ada;
  await ada.signUp();
  await ada.add("Buy milk");
  ada.expect(/50[03]/);

  await order("/database/stop");
  await page.getByLabel("New task").fill("Water the plants");
  await page.getByRole("button", { name: "Add", exact: true }).click();
  await ada.reads("Not saved. The service is temporarily unavailable, and nothing was changed. Please try again.");
  await ada.sees("Buy milk");
  await page.reload();
  await ada.reads("Your list cannot be reached just now.");

  await order("/database/start");
  await ada.sees("Buy milk");
  assert.equal(await page.getByLabel("New task").inputValue(), "Water the plants");
  await page.getByRole("button", { name: "Add", exact: true }).click();
  await ada.sees("Water the plants", "Buy milk");
});

story("both ways of signing tokens are served at once", async (arrive) => {
  for (const [at, alg] of [[FRONTEND, "EdDSA"], [FRONTEND_HS256, "HS256"]]) {
    const person = await arrive({ at });
    await person.signUp();
    await person.add(`Signed with ${alg}`);

    assert.equal(header(await person.token()).alg, alg);
    await person.page.reload();
    await person.sees(`Signed with ${alg}`);
  }
});

story("the key is rotated while the page is open, and the token renewed before it expires", async (arrive) => {
  const ada = await arrive({ clock: true });
  await ada.signUp();
  await ada.add("With the old key");
  const old = header(await ada.token()).kid;

  await order("/rotate");
  await ada.page.clock.fastForward("14:30");
  const [request] = await Promise.all([
    ada.page.waitForRequest((each) => each.method() === "POST" && each.url().startsWith(BACKEND)),
    ada.add("With the new key"),
  ]);

  assert.notEqual(header(request.headers().authorization.split(" ")[1]).kid, old);
  await ada.sees("With the new key", "With the old key");
});

story("what is wrong with a field stands beside it", async (arrive) => {
  const ada = await arrive();
  const { page } = ada;
  ada.expect(/4(00|01|22)/);
  await page.getByLabel("E-mail").fill(ada.email);
  await page.getByLabel("Password").fill("not the password");
  await page.getByRole("button", { name: "Sign in" }).click();
  await page.getByRole("alert").getByText("Invalid email or password").waitFor();
  await page.getByRole("button", { name: "Sign up" }).click();
  await page.getByLabel("Name").fill("Ada");
  await page.getByLabel("E-mail").fill(ada.email);
  await page.getByLabel("Password").fill("short");
  await page.getByRole("button", { name: "Sign up" }).click();
  await described(page.getByLabel("Password"), /too short/);
  await page.getByLabel("Password").fill("correct horse battery");
  await page.getByRole("button", { name: "Sign up" }).click();

  await page.getByLabel("New task").fill("x".repeat(201));
  await page.getByLabel("Details").fill("y".repeat(1001));
  await page.getByRole("button", { name: "Add", exact: true }).click();
  await described(page.getByLabel("New task"), /200/);
  await described(page.getByLabel("Details"), /1000/);
  assert.equal((await page.getByLabel("New task").inputValue()).length, 201);
  await page.getByLabel("New task").fill("x");
  await page.getByLabel("Details").fill("y");
  await page.getByRole("button", { name: "Add", exact: true }).click();
  await ada.sees("x");
});

story("offline the page says so, and takes a refused change back", async (arrive) => {
  const ada = await arrive();
  const { page } = ada;
  await ada.signUp();
  await ada.add("Buy milk");
  ada.expect(/ERR_INTERNET_DISCONNECTED|ERR_FAILED|500/);

  await page.context().setOffline(true);
  await ada.reads("You are offline.");
  await ada.task("Buy milk").click();
  await ada.reads("“Buy milk” was not changed.");
  await ada.sees("Buy milk");
  await page.getByRole("button", { name: "Sign out" }).click();
  await ada.reads("You are still signed in.");
  await page.context().setOffline(false);
  await page.getByText("You are offline.").waitFor({ state: "detached" });

  const wrong = { status: 500, headers: { "access-control-allow-origin": new URL(page.url()).origin, "access-control-allow-credentials": "true" }, json: { detail: "Internal server error." } };
  await page.route(`${BACKEND}/**`, (route) => (route.request().method() === "DELETE" ? route.fulfill(wrong) : route.continue()));
  await page.getByRole("button", { name: "Delete “Buy milk”" }).click();
  await ada.reads("“Buy milk” was not deleted. Internal server error.");
  await ada.sees("Buy milk");
});

story("leaving the page sends the deletion that could still be undone", async (arrive) => {
  const ada = await arrive();
  await ada.signUp();
  await ada.add("Buy milk");
  await ada.add("Keep me");
  await ada.page.getByRole("button", { name: "Delete “Buy milk”" }).click();
  await ada.sees("Keep me");

  // A page that leaves never learns whether its request arrived, so the next one asks again.
  ada.expect(/404/);
  await ada.page.reload();

  await ada.sees("Keep me");
  await ada.page.getByRole("button", { name: "Delete “Keep me”" }).click();
  const elsewhere = await ada.page.context().newPage();
  await ada.page.close();
  await elsewhere.goto(FRONTEND);
  await elsewhere.getByText("Nothing to do yet").waitFor();
});

story("the keyboard alone is enough", async (arrive) => {
  const ada = await arrive();
  const { page } = ada;
  const press = async (...keys) => {
    for (const key of keys) await page.keyboard.press(key);
  };
  await page.getByRole("form", { name: "Sign in" }).waitFor();
  await press("Tab", "Tab", "Tab", "Tab", "Enter", "Shift+Tab", "Shift+Tab", "Shift+Tab", "Shift+Tab");
  await page.keyboard.type("Ada");
  await press("Tab");
  await page.keyboard.type(ada.email);
  await press("Tab");
  await page.keyboard.type("correct horse battery");
  await press("Enter");
  await ada.reads("Nothing to do yet");

  for (const title of ["first", "second", "third"]) {
    await press("n");
    await page.keyboard.type(title);
    await press("Tab");
    await page.keyboard.type(`details of ${title}`);
    await press("Control+Enter");
    await ada.task(title).waitFor();
    await page.waitForFunction(() => document.activeElement?.value === "");
    await press("Escape");
  }
  await ada.sees("third", "second", "first");

  await press("ArrowDown", "ArrowDown", "Space");
  await ada.sees("third", "✓ second", "first");
  await press("ArrowUp", "e");
  await page.getByLabel("Title").waitFor();
  await page.waitForFunction(() => document.activeElement?.matches("input:not([type=checkbox])"));
  await press("End");
  await page.keyboard.type("!");
  await press("Enter");
  await ada.sees("third!", "✓ second", "first");
  await page.waitForFunction(() => document.activeElement?.ariaLabel === "third!");
  await press("Delete");
  await ada.sees("✓ second", "first");
  await page.waitForFunction(() => document.activeElement?.ariaLabel === "second");
  await press("z");
  await ada.sees("third!", "✓ second", "first");
  await press("/");
  await page.keyboard.type("details of s");
  await ada.sees("✓ second");
});

story("it fits a phone", async (arrive) => {
  const ada = await arrive({ viewport: { width: 390, height: 844 }, isMobile: true, hasTouch: true, deviceScaleFactor: 2 });
  const { page } = ada;
  await ada.signUp();
  await ada.add("A very long word: " + "o".repeat(150));
  await ada.add("Buy milk", "Two bottles");

  const { wide, small } = await page.evaluate(() => ({
    wide: document.documentElement.scrollWidth - innerWidth,
    // WCAG 2.5.8 asks for 24 pixels.
    small: [...document.querySelectorAll("button, input[type=text], textarea")]
      .filter((each) => each.offsetParent && Math.min(each.offsetWidth, each.offsetHeight) < 24)
      .map((each) => each.outerHTML),
  }));
  assert.equal(wide, 0);
  assert.deepEqual(small, []);
  await page.getByRole("button", { name: "Delete “Buy milk”" }).tap();
  await page.getByRole("button", { name: "Undo" }).tap();
  await ada.task("Buy milk").tap();
  await ada.sees("✓ Buy milk", "A very long word: " + "o".repeat(150));
});

story("axe finds nothing in the light", (arrive) => inspected(arrive, { colorScheme: "light" }));

story("axe finds nothing in the dark, on a phone", (arrive) =>
  inspected(arrive, { colorScheme: "dark", viewport: { width: 390, height: 844 } }));

story("nothing moves, and no foreign or inline script can run", async (arrive) => {
  const ada = await arrive();
  const { page } = ada;
  await ada.signUp();
  await ada.add("Buy milk");
  const foreign = [];
  const own = [new URL(page.url()).origin, BACKEND];
  page.on("request", (request) => own.includes(new URL(request.url()).origin) || foreign.push(request.url()));
  const [answer] = await Promise.all([page.waitForResponse((each) => each.url() === page.url()), page.reload()]);
  await ada.sees("Buy milk");

  const scripts = answer.headers()["content-security-policy"].split("; ").find((each) => each.startsWith("script-src"));
  assert.match(scripts, /^script-src 'self' 'nonce-[\w+/=]+'$/);
  ada.expect(/Content Security Policy|Content-Security-Policy/);
  await page.evaluate(() => {
    const script = document.createElement("script");
    script.textContent = "window.intruder = true";
    document.body.append(script);
    document.body.insertAdjacentHTML("beforeend", "<img src='data:,' onerror='window.intruder = true' hidden>");
  });
  assert.equal(await page.evaluate(() => window.intruder), undefined);
  assert.deepEqual(foreign, []);
  const shift = await page.evaluate(
    () =>
      new Promise((tell) => {
        let sum = 0;
        new PerformanceObserver((list) => list.getEntries().forEach((each) => (sum += each.value))).observe({ type: "layout-shift", buffered: true });
        setTimeout(() => tell(sum), 500);
      }),
  );
  assert.equal(shift, 0);
});

async function inspected(arrive, options) {
  const ada = await arrive(options);
  const { page } = ada;
  await axe(page, "sign-in");
  await page.getByRole("button", { name: "Sign up" }).click();
  await axe(page, "sign-up");
  await ada.signUp();
  await axe(page, "empty list");
  for (const [title, details] of TASKS) await ada.add(title, details);
  await ada.task("Water the plants").click();
  await ada.task("Renew the passport").click();
  await ada.sees(...TASKS.map(([title]) => (/plants|passport/.test(title) ? `✓ ${title}` : title)).reverse());
  await page.getByRole("textbox", { name: "New task" }).blur();
  await axe(page, "list");
  if (process.env.UPDATE_SCREENSHOTS) await picture(ada, options.colorScheme);
  await page.getByRole("button", { name: "Edit “Call Grandma”" }).click();
  await axe(page, "edit");
  await page.getByRole("button", { name: "Cancel" }).click();
  await page.getByRole("button", { name: "Delete “Call Grandma”" }).click();
  await axe(page, "undo");
}

/** WCAG 2.2 AA and axe's best practices. */
async function axe(page, where) {
  await page.evaluate(AXE);
  const { violations } = await page.evaluate(() => window.axe.run());
  const found = violations.map(({ id, nodes }) => `${where}: ${id}: ${nodes.map(({ html }) => html).join(" ")}`);
  assert.deepEqual(found, []);
}

async function picture({ page }, colorScheme) {
  const context = await page.context().browser().newContext({
    colorScheme,
    storageState: await page.context().storageState(),
    ...(colorScheme === "dark"
      ? { viewport: { width: 390, height: 844 }, deviceScaleFactor: 2, isMobile: true, hasTouch: true }
      : { viewport: { width: 960, height: 820 }, deviceScaleFactor: 1.5 }),
  });
  const camera = await context.newPage();
  await camera.goto(page.url());
  await camera.getByRole("checkbox", { name: "Call Grandma" }).waitFor();
  const name = colorScheme === "dark" ? "phone-dark" : "list-light";
  await camera.screenshot({ path: new URL(`../../docs/pictures/${name}.png`, import.meta.url).pathname });
  await context.close();
}
