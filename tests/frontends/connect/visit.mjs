/**
 * What does the document's tasks.ts, here globalThis.tasks, do while people come and go? Runs in a page, or in Node.
 * Returns for each step the requests that it made, with whose token and which status, and the error that it ended in.
 */
export async function visit({ login, api, expired }) {
  const { tasksOf, forget } = globalThis.tasks;
  const send = globalThis.fetch;
  const names = new Map();
  const story = {};
  let seen;
  let expiredAnswers = 0;
  let failures = 0;

  globalThis.fetch = async (address, init = {}) => {
    const headers = new Headers(init.headers);
    const toApi = String(address).startsWith(api);
    const label = toApi ? whose(address, headers.get("Authorization")) : "token";
    if (toApi && expiredAnswers-- > 0) headers.set("Authorization", `Bearer ${expired}`);
    const answer = !toApi && failures-- > 0 ? new Response("", { status: 500 }) : await send(address, { ...init, headers });
    seen.push(`${label} ${answer.status}`);
    return answer;
  };

  /** The name of the user in the path; the token must be theirs. */
  function whose(address, authorization) {
    const [, claims] = String(authorization).match(/^Bearer [\w-]+\.([\w-]+)\.[\w-]+$/) ?? [];
    if (!claims) return `with ${authorization}`;
    const { sub } = JSON.parse(atob(claims.replaceAll("-", "+").replaceAll("_", "/")));
    return new URL(address).pathname.startsWith(`/api/${sub}/tasks`) ? names.get(sub) : "with another's token";
  }

  async function step(name, act) {
    seen = [];
    await Promise.resolve(act()).catch((error) => seen.push(error.message));
    story[name] = seen;
  }

  async function auth(path, body) {
    const init = { method: "POST", credentials: "include", headers: { "Content-Type": "application/json" } };
    return (await send(`${login}/api/auth/${path}`, { ...init, body: JSON.stringify(body) })).json();
  }

  async function signUp(name) {
    const account = { name, email: `${crypto.randomUUID()}@example.com`, password: "correct horse battery" };
    const { user } = await auth("sign-up/email", account);
    names.set(user.id, name);
    return { ...user, ...account };
  }

  const list = async (person) => (await tasksOf(person.id)).json();
  const three = (person) => Promise.all([list(person), list(person), list(person)]);

  await step("nobody is signed in", () => tasksOf("somebody"));
  const ada = await signUp("Ada 🌱");
  await step("three requests at once", () => three(ada));
  await step("a new task", () => tasksOf(ada.id, "", { method: "POST", body: JSON.stringify({ title: "Buy milk" }) }));
  expiredAnswers = 3;
  await step("three at once with an expired token", () => three(ada));
  expiredAnswers = 2;
  await step("refused again and again", () => tasksOf(ada.id));
  failures = 1;
  await step("the login fails once", () => tasksOf(ada.id));
  await step("and is back", () => tasksOf(ada.id));
  await auth("sign-out", {});
  const bob = await signUp("Bob");
  await step("the next user of the same page", async () => seen.push(`${(await list(bob)).length} tasks`));
  await step("a page that still shows the first", () => tasksOf(ada.id));
  await auth("sign-out", {});
  forget();
  await step("signed out", () => tasksOf(bob.id));
  await auth("sign-in/email", { email: ada.email, password: ada.password });
  await step("the first comes back", async () => seen.push(`${(await list(ada)).length} tasks`));
  return story;
}
