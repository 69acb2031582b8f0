// What do fetch and axios get on a page of another origin? Prints it as JSON: `node foreign-page.mjs <origin> <tasks> <token>`.
import { open } from "./person.mjs";

const [origin, tasks, token] = process.argv.slice(2);
const browser = await open();
const page = await browser.newPage();
await page.goto(origin);
await page.addScriptTag({ path: new URL("../node_modules/axios/dist/axios.min.js", import.meta.url).pathname });

const answers = await page.evaluate(
  async ([tasks, token]) => {
    const headers = { Authorization: `Bearer ${token}`, "Content-Type": "application/json" };
    async function fetched(path, method = "GET", body = undefined, more = {}) {
      const answer = await fetch(tasks + path, { method, headers, body: body && JSON.stringify(body), ...more });
      const text = await answer.text();
      return { status: answer.status, body: text ? JSON.parse(text) : null, redirected: answer.redirected };
    }
    const api = axios.create({ baseURL: tasks, headers, withCredentials: true, validateStatus: () => true });
    const withAxios = async (answer) => ({ status: (await answer).status, body: (await answer).data || null });

    const created = await fetched("", "POST", { title: "With fetch", description: "", priority: "high" }, { credentials: "include" });
    const one = `/${created.body.id}`;
    const whole = await fetched(one, "PUT", { ...created.body, title: "Sent back whole" }, { credentials: "include" });
    const toggled = await fetched(`${one}/complete`, "PATCH");
    const listed = await fetched("?status=all", "GET", undefined, { credentials: "include" });
    const slash = await fetched("/");
    const deleted = await fetched(one, "DELETE");
    const gone = await fetched(one);
    const refused = await fetch(tasks, { headers: { Authorization: "Bearer session-token" }, credentials: "include" });
    return {
      fetch: { created, whole, toggled, listed, slash, deleted, gone },
      refused: { status: refused.status, body: await refused.json(), challenge: refused.headers.get("WWW-Authenticate"), id: refused.headers.get("X-Request-Id") },
      axios: {
        created: await withAxios(api.post("", { title: "With axios" })),
        invalid: await withAxios(api.post("", { title: "" })),
        listed: await withAxios(api.get("", { params: { status: "all" } })),
      },
    };
  },
  [tasks, token],
);
await browser.close();
console.log(JSON.stringify(answers));
