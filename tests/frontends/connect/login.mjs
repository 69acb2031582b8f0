// What Next.js would serve of the document, without Next.js: Better Auth by auth.ts, and the own route. Says when it is
// ready, and ends with its standard input.
import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { getMigrations } from "better-auth/db/migration";
import { toNodeHandler } from "better-auth/node";
import ts from "typescript";

const compilerOptions = { module: ts.ModuleKind.ESNext, target: ts.ScriptTarget.ES2022 };
for (const file of readdirSync(".").filter((name) => name.endsWith(".ts"))) {
  const { outputText } = ts.transpileModule(readFileSync(file, "utf8"), { compilerOptions });
  writeFileSync(file.replace(/ts$/, "mjs"), outputText.replace('"@/auth"', '"./auth.mjs"'));
}

const { auth } = await import("./auth.mjs");
await (await getMigrations(auth.options)).runMigrations();
const login = toNodeHandler(auth);
const ownRoute = existsSync("route.mjs") && toNodeHandler((await import("./route.mjs")).GET);

const { BETTER_AUTH_URL, BETTER_AUTH_TRUSTED_ORIGINS } = process.env;
const server = createServer((request, response) => {
  response.setHeader("Access-Control-Allow-Origin", BETTER_AUTH_TRUSTED_ORIGINS);
  response.setHeader("Access-Control-Allow-Credentials", "true");
  return (request.url === "/api/token" ? ownRoute : login)(request, response);
});
server.listen(new URL(BETTER_AUTH_URL).port, "127.0.0.1", () => console.log("ready"));
process.stdin.resume().on("end", () => process.exit());
