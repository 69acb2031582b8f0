// Which ways of handing out tokens do frontends use? Each mode is what a frontend's author writes into betterAuth({…}).
import { bearer, jwt } from "better-auth/plugins";
import { SignJWT } from "jose";

// The secret's bytes as they are: neither decoded nor hashed.
const secret = new TextEncoder().encode(process.env.BETTER_AUTH_SECRET);

const keyPair = (alg) => ({ plugins: [jwt({ jwks: { keyPairConfig: { alg } } })] });
const cookieCache = { enabled: true, strategy: "jwt" };

export const modes = {
  // GET /api/auth/token hands out the token, /api/auth/jwks publishes the key.
  eddsa: { plugins: [jwt()] },
  es256: keyPair("ES256"),
  es512: keyPair("ES512"),
  rs256: keyPair("RS256"),
  ps256: keyPair("PS256"),
  rotation: { plugins: [jwt({ jwks: { rotationInterval: 2, gracePeriod: 60 } })] },
  serial: { advanced: { database: { generateId: "serial" } }, plugins: [jwt()] },

  // The plugin signs with the shared secret only when it is told how; `remoteUrl` must then be set and is never asked.
  hs256: {
    plugins: [
      jwt({
        jwks: { remoteUrl: "https://example.com/unused", keyPairConfig: { alg: "HS256" } },
        jwt: { sign: (claims) => new SignJWT(claims).setProtectedHeader({ alg: "HS256", typ: "JWT" }).sign(secret) },
      }),
    ],
  },

  // See ownToken.
  "own-route": {},

  // The cookie better-auth.session_data is a JWT.
  "cookie-cache": { session: { cookieCache } },

  // These hand out nothing that the API accepts.
  "session-cache": { session: { cookieCache }, plugins: [jwt({ sessionCookieCache: true })] },
  session: { plugins: [bearer()] },
  verification: {
    emailVerification: {
      sendOnSignUp: true,
      sendVerificationEmail: async ({ user, token }) => void mails.set(user.email, token),
    },
  },
};

/** The token of the last verification link, by e-mail address. */
export const mails = new Map();

/** A route of the application's own that signs a token for whoever is signed in. */
export async function ownToken(auth, headers) {
  const session = await auth.api.getSession({ headers });
  return new SignJWT()
    .setProtectedHeader({ alg: "HS256" })
    .setSubject(session.user.id)
    .setIssuedAt()
    .setExpirationTime("15m")
    .sign(secret);
}
