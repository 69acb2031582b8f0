// Makes the tables that `npx auth@latest migrate` makes, also with Node.js 20.
import { getMigrations } from "better-auth/db/migration";
import { jwt } from "better-auth/plugins";
import { Pool } from "pg";

const database = new Pool({ connectionString: process.env.DATABASE_URL });
await (await getMigrations({ database, plugins: [jwt()] })).runMigrations();
await database.end();
