// Serves a frontend's Better Auth in one of the modes and says its origin; ends with its standard input.
// From the environment: MODE, DATABASE_URL, BETTER_AUTH_SECRET, and PORT (a free one if it is 0).
import { once } from "node:events";
import { createServer } from "node:http";
import { betterAuth } from "better-auth";
import { getMigrations } from "better-auth/db/migration";
import { fromNodeHeaders, toNodeHandler } from "better-auth/node";
import pg from "pg";
import { mailed, modes, ownToken } from "./modes.mjs";

const { MODE, PORT, DATABASE_URL, BETTER_AUTH_SECRET } = process.env;

// Longer than the API waits for a key set.
const SLOW = 8_000;

// What stands where a key set should be.
const RUBBISH = {
  "/rubbish/page": [200, "<!doctype html><title>Sign in</title>"],
  "/rubbish/half": [200, '{"keys":[{"kty":"OKP","crv":"Ed25'],
  "/rubbish/list": [200, '[{"keys":[]}]'],
  "/rubbish/error": [500, '{"keys":[]}'],
  "/rubbish/elsewhere": [302, "", { Location: "/api/auth/jwks" }],
};

const server = createServer();
server.listen(Number(PORT), "127.0.0.1");
await once(server, "listening");
const baseURL = `http://127.0.0.1:${server.address().port}`;

const database = new pg.Pool({
  connectionString: DATABASE_URL,
  application_name: "better-auth",
  options: `-c search_path="${MODE}"`,
});
await database.query(`CREATE SCHEMA IF NOT EXISTS "${MODE}"`);

const auth = betterAuth({
  baseURL,
  secret: BETTER_AUTH_SECRET,
  database,
  emailAndPassword: { enabled: true },
  ...modes[MODE],
});
await (await getMigrations(auth.options)).runMigrations();
const betterAuthHandler = toNodeHandler(auth);

server.on("request", async (request, response) => {
  const { pathname, searchParams } = new URL(request.url, baseURL);
  if (pathname === "/own-token") {
    response.end(JSON.stringify({ token: await ownToken(auth, fromNodeHeaders(request.headers)) }));
  } else if (pathname === "/mail") {
    response.end(JSON.stringify({ token: mailed(searchParams.get("to")) }));
  } else if (pathname === "/slow") {
    setTimeout(() => betterAuthHandler(Object.assign(request, { url: "/api/auth/jwks" }), response), SLOW);
  } else if (pathname in RUBBISH) {
    const [status, body, headers] = RUBBISH[pathname];
    response.writeHead(status, headers).end(body);
  } else {
    betterAuthHandler(request, response);
  }
});

process.stdin.resume().on("end", () => process.exit());
console.log(baseURL);
