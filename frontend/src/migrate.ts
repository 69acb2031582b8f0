// Brings Better Auth's tables up to date, with its own migrations: `npm run migrate`.
import { getMigrations } from "better-auth/db/migration";
import { auth } from "./auth.ts";

const { runMigrations } = await getMigrations(auth.options);
await runMigrations();
process.exit(0);
