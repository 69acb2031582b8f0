import { betterAuth } from "better-auth";
import { jwt } from "better-auth/plugins";
import { SignJWT } from "jose";
import { Pool } from "pg";

const {
  BETTER_AUTH_SECRET = "",
  BETTER_AUTH_URL = "",
  DATABASE_URL,
  JWT_ALGORITHM,
  JWT_LIFETIME = "15m",
} = process.env;

// JWT_ALGORITHM=HS256 signs with the secret that the backend shares; by default a key pair of the plugin's own does.
const sharedSecret = {
  jwks: { remoteUrl: `${BETTER_AUTH_URL}/api/auth/jwks`, keyPairConfig: { alg: "EdDSA" as const } },
  jwt: {
    expirationTime: JWT_LIFETIME,
    sign: (payload: object) =>
      new SignJWT({ ...payload })
        .setProtectedHeader({ alg: "HS256", typ: "JWT" })
        .sign(new TextEncoder().encode(BETTER_AUTH_SECRET)),
  },
};
const keyPair = { jwt: { expirationTime: JWT_LIFETIME } };

const pool = new Pool({ connectionString: DATABASE_URL, connectionTimeoutMillis: 5_000 });
// An idle connection that breaks, as when the database restarts, is reported here; unheard it would end the process.
pool.on("error", (error) => console.error("database:", error.message));

export const auth = betterAuth({
  database: pool,
  emailAndPassword: { enabled: true },
  plugins: [jwt(JWT_ALGORITHM === "HS256" ? sharedSecret : keyPair)],
  telemetry: { enabled: false },
});
