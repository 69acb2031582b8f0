// A visit without a browser: relative addresses, one jar of cookies, and CORS. `node page.mjs <page> <login> <api> <expired>`
import { visit } from "./visit.mjs";

const [page, login, api, expired] = process.argv.slice(2);
const cookies = new Map();
const send = fetch;

globalThis.fetch = async (address, init = {}) => {
  const url = new URL(address, page);
  const headers = new Headers(init.headers);
  headers.set("Origin", page);
  const withCookies = url.origin === page || init.credentials === "include";
  if (withCookies) headers.set("Cookie", [...cookies].map((pair) => pair.join("=")).join("; "));
  const answer = await send(url, { ...init, headers });
  if (url.origin !== page && answer.headers.get("Access-Control-Allow-Origin") !== page)
    throw new TypeError(`CORS: ${url.origin} does not allow ${page}`);
  for (const cookie of withCookies ? answer.headers.getSetCookie() : []) {
    const [, name, value] = cookie.match(/^([^=]+)=([^;]*)/);
    cookies.set(name, value);
  }
  return answer;
};

globalThis.tasks = await import("./tasks.mjs");
console.log(JSON.stringify(await visit({ login, api, expired })));
