// Who is at the browser, and what do they see besides the page?
import assert from "node:assert/strict";
import { test } from "node:test";
import { chromium } from "playwright-core";

export const { FRONTEND, FRONTEND_HS256, BACKEND, CONTROL, CHROMIUM = "/usr/bin/chromium" } = process.env;
const QUIET = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"];
const args = [...QUIET, "--disable-component-update", "--disable-sync"];
const HANG = 60_000;

export const open = () => chromium.launch({ executablePath: CHROMIUM, args });

let browser;

/** A test whose people must have seen no error in the console or on the network but those that it announced. */
export function story(name, tell) {
  test(name, { timeout: 3 * HANG }, async () => {
    const people = [];
    browser ??= await open();
    try {
      await tell(async (options) => {
        const person = await Person.arrive(options);
        people.push(person);
        return person;
      });
      for (const person of people) assert.deepEqual(person.troubles, [], "troubles that nobody expected");
    } catch (error) {
      for (const { page, troubles } of people)
        error.message += `\n${[await page.locator("body").innerText().catch(String), ...troubles].join("\n")}`;
      throw error;
    } finally {
      for (const { page } of people) await page.context().close();
    }
  });
}

export const goHome = () => browser?.close();

export const order = async (what) => assert.equal((await fetch(CONTROL + what, { method: "POST" })).status, 204);

/** Wait for what will be so in a moment. */
export async function until(holds) {
  for (const end = Date.now() + HANG; Date.now() < end; await new Promise((wake) => setTimeout(wake, 50)))
    if (await holds()) return;
  throw new Error("what the story waits for did not come");
}

let visitors = 0;

class Person {
  number = ++visitors;
  troubles = [];
  #expected = [];

  static async arrive({ at = FRONTEND, clock = false, ...options } = {}) {
    const person = new Person();
    const context = await browser.newContext({ viewport: { width: 1000, height: 800 }, ...options });
    context.setDefaultTimeout(HANG);
    person.at = at;
    person.email = `person-${person.number}-${Date.now()}@example.com`;
    person.page = await context.newPage();
    if (clock) await person.page.clock.install();
    person.#watch();
    await person.page.goto(at);
    return person;
  }

  /** From now on, console messages and answers that match are part of the story. */
  expect(pattern) {
    this.#expected.push(pattern);
  }

  #watch() {
    const note = (words) => this.#expected.some((pattern) => pattern.test(words)) || this.troubles.push(words);
    this.page.on("pageerror", (error) => note(`page: ${error}`));
    this.page.on("console", (message) => {
      // The browser repeats what the network has said already, without an address in the text.
      if (["error", "warning"].includes(message.type()))
        note(`console: ${message.text()} ${message.location().url}`);
    });
    this.page.on("response", (answer) => answer.status() >= 400 && note(`network: ${answer.status()} ${answer.url()}`));
    this.page.on("requestfailed", (request) => {
      const why = request.failure()?.errorText;
      // Leaving or reloading a page aborts what is under way.
      if (why !== "net::ERR_ABORTED") note(`network: ${why} ${request.url()}`);
    });
  }

  /** As a program would, from an address of its own: Better Auth lets three sign up by hand in ten seconds. */
  async signUp(name = "Ada Lovelace") {
    const answer = await fetch(`${this.at}/api/auth/sign-up/email`, {
      method: "POST",
      headers: { "content-type": "application/json", origin: this.at, "x-forwarded-for": `10.0.0.${this.number}` },
      body: JSON.stringify({ name, email: this.email, password: "correct horse battery" }),
    });
    assert.equal(answer.status, 200, await answer.text());
    const [cookie, ...value] = answer.headers.getSetCookie()[0].split(";")[0].split("=");
    await this.page.context().addCookies([{ name: cookie, value: value.join("="), url: this.at, httpOnly: true, sameSite: "Lax" }]);
    await this.page.reload();
    await this.page.getByRole("list", { name: "Tasks" }).waitFor({ state: "attached" });
  }

  async signUpByHand() {
    const { page } = this;
    await page.getByRole("button", { name: "Sign up" }).click();
    await page.getByLabel("Name").fill("Ada Lovelace");
    await page.getByLabel("E-mail").fill(this.email);
    await page.getByLabel("Password").fill("correct horse battery");
    await page.getByRole("button", { name: "Sign up" }).click();
    await page.getByRole("list", { name: "Tasks" }).waitFor({ state: "attached" });
  }

  async signIn() {
    const { page } = this;
    await page.getByLabel("E-mail").fill(this.email);
    await page.getByLabel("Password").fill("correct horse battery");
    await page.getByRole("button", { name: "Sign in" }).click();
    await page.getByRole("list", { name: "Tasks" }).waitFor({ state: "attached" });
  }

  async add(title, details) {
    const { page } = this;
    await page.getByLabel("New task").fill(title);
    if (details) await page.getByLabel("Details").fill(details);
    await this.answered("POST", () => page.getByRole("button", { name: "Add", exact: true }).click());
    await this.task(title).waitFor();
  }

  task(title) {
    return this.page.getByRole("checkbox", { name: title, exact: true });
  }

  /** Do something that sends this request to the backend, and return the status of its answer. */
  async answered(method, doing) {
    const [answer] = await Promise.all([
      this.page.waitForResponse((each) => each.url().startsWith(BACKEND) && each.request().method() === method),
      doing(),
    ]);
    return answer.status();
  }

  async titles() {
    return this.page.getByRole("list", { name: "Tasks" }).getByRole("checkbox").evaluateAll((boxes) =>
      boxes.map((box) => (box.checked ? "✓ " : "") + box.getAttribute("aria-label")),
    );
  }

  /** The list shows exactly these, after a moment. */
  async sees(...expected) {
    await until(async () => (await this.titles()).join("\n") === expected.join("\n")).catch(() => {});
    assert.deepEqual(await this.titles(), expected);
  }

  /** An access token of this person's, fresh from Better Auth. */
  async token() {
    return this.page.evaluate(async () => (await (await fetch("/api/auth/token")).json()).token);
  }

  async reads(text) {
    await this.page.getByText(text).first().waitFor();
  }
}
